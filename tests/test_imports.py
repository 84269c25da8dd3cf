"""The direction of imports: who may know whom, as ARCHITECTURE.md draws it."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

HANDLERS = {"admin", "admin_audit", "admin_keys", "admin_ledger", "admin_live", "chat", "health"}
HANDLERS |= {"litellm_keys", "litellm_spend", "models", "moderations", "responses"}

# A module imports from its own tier or one above it in this list, never from below. A new module
# is entered here: that is where one decides what it may know.
TIERS = [
    # what everybody may import
    {"anos", "errors", "sse", "metrics", "config", "config_reader", "config_sections"}
    | {"config_values"},
    # pure: values in, values out
    {
        "validation",
        "decoding",
        "items",
        "inputs",
        "event_state",
        "events",
        "routing",
        "pricing",
        "bounds",
        "audit",
        "audit_export",
        "admin_params",
    }
    | {"chat_requests", "chat_answers", "chat_stream", "dialect_chat", "dialect_responses"}
    | {"passthrough", "chat_passthrough", "event_order", "surrogates"}
    | {"shapes", "calls", "translated"}
    | {
        "extract",
        "extract_readers",
        "scanner",
        "scanner_parts",
        "scanner_chat",
        "scanner_reading",
        "scanner_responses",
        "scanner_lines",
        "scanner_queue",
        "scanner_runs",
        "stream",
        "windows",
        "extract_walk",
    }
    | {"stub_answers", "openapi", "openapi_parts", "openapi_schemas"}
    | {"openapi_admin", "openapi_admin_schemas", "openapi_litellm"},
    # edges: a socket, a file or the clock
    {"schema", "store", "store_reads", "store_writes", "store_ledger", "statements", "upstream"}
    | {"store_file", "store_audit", "store_copy", "upkeep", "moderation"}
    | {"queries", "searches", "spend", "request_views", "feed"}
    | {
        "keys",
        "key_settings",
        "limits",
        "budgets",
        "ledger",
        "screening",
        "looking",
        "screened",
        "judging",
        "sending",
        "runs",
        "stub",
        "secret",
        "traces",
        "exchange",
    },
    {"state", "key_views"},
    # the path of a request
    {"middleware", "admission", "pipeline", "relay", "intake", "lifecycle", "server"}
    | {"changes", "key_changes", "litellm_fields", "recompute"},
    HANDLERS,
    {"routes"},
    {"cli", "cli_audit", "cli_guards", "cli_keys", "cli_spend", "remote", "anos_gateway"}
    | {"selftest", "selftest_canary", "selftest_cases", "selftest_chat", "selftest_fields"}
    | {"selftest_matrix", "selftest_places", "selftest_responses", "selftest_trial"}
    | {"selftest_wire"},
]
RANKS = {name: rank for rank, names in enumerate(TIERS) for name in names}

OURS = sorted([ROOT / "anos_gateway.py", *ROOT.glob("anos/*.py")])
GUARDS = sorted(ROOT.glob("guards/*.py"))


def name_of(path: Path) -> str:
    return path.parent.name if path.stem == "__init__" else path.stem


def imports(path: Path) -> Iterator[str]:
    """Every module that is imported anywhere in the file, the lazy and typing-only ones too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_of_ours(path: Path) -> set[str]:
    return {
        name.removeprefix("anos.").split(".")[0]
        for name in imports(path)
        if name.startswith(("anos.", "anos_gateway"))
    } & set(RANKS)


def importers_of(library: str) -> set[str]:
    return {
        name_of(path)
        for path in OURS + GUARDS
        if any(name == library or name.startswith(library + ".") for name in imports(path))
    }


def test_every_module_has_a_rank() -> None:
    assert {name_of(path) for path in OURS} <= set(RANKS)


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    rank = RANKS[name_of(path)]
    assert {name for name in imported_of_ours(path) if RANKS[name] > rank} == set()


def test_imports_have_no_cycles() -> None:
    graph = {name_of(path): imported_of_ours(path) - {name_of(path)} for path in OURS}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", sorted(HANDLERS))
def test_handlers_do_not_import_each_other(name: str) -> None:
    assert imported_of_ours(ROOT / f"anos/{name}.py") & HANDLERS <= {name}


@pytest.mark.parametrize("path", GUARDS, ids=name_of)
def test_guards_import_nothing_of_ours(path: Path) -> None:
    assert {name for name in imports(path) if name.split(".")[0].startswith("anos")} == set()


def test_only_the_store_talks_to_sqlite() -> None:
    assert importers_of("aiosqlite") == {"store_file"}
    assert importers_of("sqlite3") <= {
        *("store", "store_file", "store_reads", "store_writes", "store_ledger", "schema"),
        *("store_audit", "store_copy", "queries"),
    }


def test_only_upstream_uses_the_http_client() -> None:
    # `import aiohttp` by itself gives the client too; servers name what they take.
    client = ("aiohttp.client", "aiohttp.Client", "aiohttp.connector", "aiohttp.TCPConnector")
    assert {
        name_of(path)
        for path in OURS + GUARDS
        if any(name == "aiohttp" or name.startswith(client) for name in imports(path))
    } == {"upstream"}


def test_no_module_at_the_root_can_shadow_a_library() -> None:
    assert [path.name for path in ROOT.glob("*.py")] == ["anos_gateway.py"]
