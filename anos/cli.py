"""The command line: `serve` (the default) and `check`."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from anos import __version__, config

# Runs the gateway until it is told to stop: the configuration, and what reads it again for a reload
# (with the same flags; raises config.ConfigFault).
Serve = Callable[[config.Config, Callable[[], config.Config]], None]

_OK, _FAULTS = 0, 1  # argparse itself exits with 2 for a wrong command line


def main(argv: Sequence[str], serve: Serve) -> int:
    """Does what `argv` (without the program's name) says; returns the exit code, 1 for faults.

    Leaves with SystemExit for --help, --version (0) and a command line it does not know (2).
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.json_schema and options.command != "check":
        parser.error("--json-schema belongs to check")
    if options.json_schema:
        print(json.dumps(config.json_schema(), indent=2))
        return _OK

    def load() -> config.Config:
        names = ("host", "port", "database", "master_key_env")
        flags = {name: getattr(options, name) for name in names}
        return config.load(options.config, flags=flags)

    try:
        loaded = load()
    except config.ConfigFault as fault:
        print(*fault.faults, sep="\n", file=sys.stderr)
        return _FAULTS
    if loaded.server.master_key is None and not loaded.keys:
        print("warning: neither server.master_key nor keys: nobody can call", file=sys.stderr)
    if options.command == "check":
        print(f"{options.config or config.default_file() or 'no file, the built-in stub'}: ok")
        return _OK
    serve(loaded, load)
    return _OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="anos_gateway.py",
        description="A self-hosted gateway: the OpenAI Responses API for every model.",
        epilog="Flags beat the environment (ANOS_HOST, ANOS_PORT, PORT, ANOS_DATABASE, "
        "ANOS_MASTER_KEY), which beats the file, which beats the defaults.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=("serve", "check"),
        default="serve",
        help="serve: run the gateway (the default); check: print every fault of the configuration",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="default: anos.json, if any")
    parser.add_argument("--host", metavar="ADDRESS", help="default: 127.0.0.1")
    parser.add_argument("--port", type=int, help="default: 4000; 0: one that is free")
    parser.add_argument("--database", metavar="FILE", help="default: anos.db")
    parser.add_argument(
        "--master-key-env", metavar="NAME", help="environment variable that holds the master key"
    )
    parser.add_argument("--json-schema", action="store_true", help="with check: print the schema")
    parser.add_argument("--version", action="version", version=f"anos-gateway {__version__}")
    return parser
