"""The contracts: settings, references and row schemas. Must not import Paddle or Prefect."""
