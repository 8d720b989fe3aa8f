"""Run generated programs in a sandbox that the user names."""

from tuneport.scoring.sandbox.sandbox import Sandbox as Sandbox
