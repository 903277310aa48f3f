"""Constants of a program, each made once however often it is used."""

from typing import Any

CONSTANTS = ("pd_op.full", "pd_op.full_int_array")
MADE_BY = "op_callstack"


def share_constants(program: Any) -> int:
    """Let equal constants of a program be one operator, the first; how many were dropped.

    Paddle makes a constant anew for each operator that takes it: a fifth of a training program's operators. Each is run in
    every step, and what the executor does before the first step grows with the square of their number. To be called when
    nothing will be added to the program any more.
    """
    first: dict[str, Any] = {}
    dropped = 0
    for op in program.global_block().ops:
        if op.name() not in CONSTANTS:
            continue
        made = op.result(0)
        attributes = {name: value for name, value in op.attrs().items() if name != MADE_BY}
        known = first.setdefault(f"{op.name()} {attributes} {made.type()}", made)
        if not known.is_same(made):
            made.replace_all_uses_with(known)
            op.erase()
            dropped += 1
    return dropped
