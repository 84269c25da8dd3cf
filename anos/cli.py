"""The command line: `serve` (the default), and what operators do from a shell."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anos import __version__, config
from anos.config_sections import Config
from anos.routing import unpriced

if TYPE_CHECKING:
    from aiohttp import web

# Runs the gateway until it is told to stop: the configuration, what reads it again for a reload
# (with the same flags; raises ConfigFault), and the file it is from, if it is from one.
Serve = Callable[[Config, Callable[[], Config], Path | None], None]
# The application of a configuration, for a command that tries it out.
Build = Callable[[Config], "web.Application"]

_NAME = "anos_gateway.py"
_OK, _FAULTS = 0, 1  # argparse itself exits with 2 for a wrong command line
_FLAGS = ("host", "port", "database", "master_key_env")


def main(argv: Sequence[str], serve: Serve, build: Build | None = None) -> int:
    """Does what `argv` (without the program's name) says; returns the exit code, 1 for faults.

    Leaves with SystemExit for --help, --version (0) and a command line it does not know (2).
    """
    code = _OK
    try:
        code = _run(_parsed(argv), serve, build)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads what we print may have seen enough
        # What is left in the buffer must not be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(options: argparse.Namespace, serve: Serve, build: Build | None) -> int:
    if getattr(options, "json_schema", False):
        print(json.dumps(config.json_schema(), indent=2))
        return _OK

    path: Path | None = getattr(options, "config", None)

    def load() -> Config:
        nonlocal path
        path = path or config.default_file()  # once there, to miss it is a fault
        flags = {name: getattr(options, name, None) for name in _FLAGS}
        return config.load(path, flags=flags, only=getattr(options, "reads", frozenset()))

    try:
        loaded = load()
    except config.ConfigFault as fault:
        print(*fault.faults, sep="\n", file=sys.stderr)
        return _FAULTS
    if run := getattr(options, "run", None):
        options.build = build
        result: int = run(options, loaded)
        return result
    if loaded.server.master_key is None and not loaded.keys:
        print("warning: neither server.master_key nor keys: nobody can call", file=sys.stderr)
    if options.command == "check":
        for model in unpriced(loaded) if loaded.budgets else ():
            print(f"warning: models.{model} has no price: no budget can hold it", file=sys.stderr)
        print(f"{path or 'no file, the built-in stub'}: ok")
        return _OK
    serve(loaded, load, path)
    return _OK


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    options, rest = _common().parse_known_args(argv, argparse.Namespace(command="serve"))
    if rest in ([], ["serve"]):  # a start does not wait for the modules of the other commands
        return options
    return _parser().parse_args(argv)


def _parser() -> argparse.ArgumentParser:
    from anos import cli_audit, cli_guards, cli_keys, cli_spend

    common = _common()
    parser = argparse.ArgumentParser(
        prog=_NAME,
        description="A self-hosted gateway: the OpenAI Responses API for every model.",
        epilog="Flags beat the environment (ANOS_HOST, ANOS_PORT, PORT, ANOS_DATABASE, "
        "ANOS_MASTER_KEY), which beats the file, which beats the defaults.",
        allow_abbrev=False,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"anos-gateway {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, words: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=words, parents=[common], allow_abbrev=False)

    add("serve", "run the gateway (the default)")
    check = add("check", "print every fault of the configuration")
    check.add_argument("--json-schema", action="store_true", help="print the schema instead")
    for module in (cli_keys, cli_spend, cli_guards, cli_audit):
        module.add_commands(add)
    return parser


def _common() -> argparse.ArgumentParser:
    # Without a default, what stands before the command is not overwritten by what is not after it.
    common = argparse.ArgumentParser(
        prog=_NAME, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    common.add_argument("--config", type=Path, metavar="FILE", help="default: anos.json, if any")
    common.add_argument("--host", metavar="ADDRESS", help="default: 127.0.0.1")
    common.add_argument("--port", type=int, help="default: 4000; 0: one that is free")
    common.add_argument("--database", metavar="FILE", help="default: anos.db")
    common.add_argument(
        "--master-key-env", metavar="NAME", help="environment variable that holds the master key"
    )
    return common
