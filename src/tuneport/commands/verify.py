"""`tuneport verify`."""

from __future__ import annotations

import argparse

from tuneport.commands.arguments import given_for
from tuneport.commands.printing import Told
from tuneport.engine.run_options import VerifyOptions

RECORDS = (VerifyOptions,)


def call(options: argparse.Namespace) -> Told:
    """Verify."""
    from tuneport.verification import verify

    proof = verify(**given_for(VerifyOptions, options))
    return Told(f"{options.out}: {proof}", {"verified": True, **proof.to_dict()})
