"""The contracts: settings, references and row schemas."""
