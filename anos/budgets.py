"""The budgets that calls spend from, by account; the arithmetic is in guards/budgets.py.

An account is a key ("key:ci"), a project ("project:research") or everybody ("global"). Nothing here
awaits: between the look at a budget and the reservation no other call can come in between.

Budgets change while calls run. One that is new begins with what the ledger says was spent before
the change began, what was settled since, and what the calls that run then hold: each call is in
exactly one of the three.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

from msgspec import Struct, field

from anos.config_sections import Budget as Spec
from anos.errors import BudgetExceeded
from guards.budgets import Budget, Window, micro_usd

Plan = dict[str, dict[Spec, Budget]]
New = tuple[str, Budget]  # an account, and a budget it did not have
Payers = tuple[str, ...]  # the accounts that a cost is of, whether they have budgets or not

_NONE: dict[Spec, Budget] = {}
# Until then a call that runs may have ended, and given back what it did not use.
_RETRY_S = "1"


class Reservation(Struct, eq=False):
    """What a call that runs holds until its cost is known."""

    micro_usd: int  # held in each of the budgets
    charged_ms: int  # Unix time it counts at
    payers: Payers
    budgets: "Budgets"
    parts: list[tuple[Budget, int]] = field(default_factory=list)  # with the period's start
    is_settled: bool = False

    def settle(self, cost: int) -> None:
        """The call has cost so many micro-dollars; only the first time counts."""
        if not self.is_settled:
            self.is_settled = True
            for budget, start_ms in self.parts:
                budget.settle(start_ms, self.micro_usd, cost)
            self.budgets.ended(self, cost)


class Change(Struct, frozen=True, eq=False):
    """The budgets that are to be in force, those of them that are new, and what was settled."""

    accounts: Mapping[str, tuple[Spec, ...]]
    plan: Plan
    new: list[New]
    # Since it began: whose it was, the Unix time it counts at, and the cost.
    settled: list[tuple[Payers, int, int]] = field(default_factory=list)


class Budgets:
    """Every budget of every account; what was spent stays through a reload."""

    def __init__(self) -> None:
        self._taken: Mapping[str, tuple[Spec, ...]] = {}
        self._accounts: Plan = {}
        self._has_soft = False
        self._held: dict[Reservation, None] = {}  # of the calls that run
        self._change: Change | None = None  # that is being made

    @contextmanager
    def changing(self, accounts: Mapping[str, tuple[Spec, ...]]) -> Iterator[Change]:
        """A change to the budgets of a new configuration, to `take` within; one at a time.

        What the ledger has of the new budgets' accounts must be asked for at once, before anything
        else can be settled: from here on it is noted.
        """
        assert self._change is None
        self._change = change = self._plan(accounts)
        try:
            yield change
        finally:
            self._change = None

    def _plan(self, accounts: Mapping[str, tuple[Spec, ...]]) -> Change:
        if accounts == self._taken:  # most changes of a key, and there may be many keys
            return Change(accounts, self._accounts, [])
        plan: Plan = {}
        new: list[New] = []
        for account, specs in accounts.items():
            known = self._accounts.get(account, {})
            mine: dict[Spec, Budget] = {}
            plan[account] = mine
            for spec in specs:
                budget = known.get(spec) or _same_window(known, spec)
                if budget is None or budget in mine.values():
                    limit, soft = _amounts(spec)
                    budget = Budget(limit, Window.parse(spec.window, spec.time_zone), soft)
                    new.append((account, budget))
                mine[spec] = budget
        return Change(accounts, plan, new)

    def take(self, change: Change, at_ms: int, spent: Iterable[int]) -> None:
        """From now on calls spend from these.

        `spent` is what each of the new ones had spent by `at_ms`, when the change began, in the
        period of that time. A call that runs and holds nothing counts when it is settled.
        """
        for (account, budget), micro in zip(change.new, spent, strict=True):
            budget.restore(at_ms, micro)
            for payers, charged_ms, cost in change.settled:
                if account in payers:
                    budget.settle(charged_ms, 0, cost)
            for each in self._held:
                if account in each.payers:
                    each.parts.append((budget, budget.hold(each.charged_ms, each.micro_usd)))
        if change.plan is self._accounts:
            return
        self._taken, plan = change.accounts, change.plan
        self._accounts = plan
        for budgets in plan.values():
            for spec, budget in budgets.items():
                budget.limit, budget.soft = _amounts(spec)
        self._has_soft = any(spec.soft_usd is not None for each in plan.values() for spec in each)

    def has_any(self, payers: Iterable[str]) -> bool:
        """Whether any of the accounts has a budget."""
        return bool(self._accounts) and not self._accounts.keys().isdisjoint(payers)

    def reserve(self, payers: Payers, micro: int, at_ms: int) -> Reservation:
        """Hold so many micro-dollars in every budget of the accounts, each named once.

        It is to be settled. Raises BudgetExceeded, holding nothing, if one of them has not so much
        left; it may be tried again where only calls that run are in the way.
        """
        reservation = Reservation(micro, at_ms, payers, self)
        for account in payers:
            for spec, budget in self._accounts.get(account, _NONE).items():
                start_ms = budget.reserve(at_ms, micro)
                if start_ms is None:
                    reservation.settle(0)
                    raise _refusal(account, spec, budget, micro, at_ms)
                reservation.parts.append((budget, start_ms))
        self._held[reservation] = None
        return reservation

    def ended(self, reservation: Reservation, cost: int) -> None:
        """For `Reservation.settle`: the call runs no more."""
        self._held.pop(reservation, None)
        self._note(reservation.payers, reservation.charged_ms, cost)

    def spend(self, payers: Payers, cost: int, charged_ms: int) -> None:
        """A call that held nothing, as there was no budget when it began, has cost so much."""
        for account in payers if self._accounts else ():
            for budget in self._accounts.get(account, _NONE).values():
                budget.settle(charged_ms, 0, cost)
        self._note(payers, charged_ms, cost)

    def _note(self, payers: Payers, charged_ms: int, cost: int) -> None:
        if self._change is not None and cost:
            self._change.settled.append((payers, charged_ms, cost))

    def warnings(self, accounts: Iterable[str], at_ms: int) -> list[str]:
        """The accounts and windows whose soft amount is reached: "key:ci month"."""
        if not self._has_soft:
            return []
        return [
            f"{account} {spec.window}"
            for account in accounts
            for spec, budget in self._accounts.get(account, {}).items()
            if budget.is_soft(at_ms)
        ]

    def correct(self, accounts: Iterable[str], micro: int, charged_ms: int, at_ms: int) -> None:
        """A call that counts at `charged_ms` has cost so many micro-dollars more, or fewer.

        Only periods that run at `at_ms` are corrected: nothing is reserved in older ones any more.
        """
        for account in accounts:
            for budget in self._accounts.get(account, {}).values():
                if budget.window.bounds(at_ms)[0] <= charged_ms:
                    budget.settle(charged_ms, 0, micro)

    def spent(self, account: str, at_ms: int) -> list[int]:
        """What each budget of an account has spent in its period, without what is held."""
        budgets = self._accounts.get(account, _NONE).values()
        return [budget.settled(at_ms) for budget in budgets]

    def state(self, account: str, at_ms: int) -> list[dict[str, object]]:
        """Each budget of an account as operators see it; amounts in dollars."""
        return [
            {
                "window": spec.window,
                "time_zone": spec.time_zone,
                "usd": spec.usd,
                "soft_usd": spec.soft_usd,
                "remaining_usd": budget.remaining(at_ms) / 1e6,
                "resets_at_ms": budget.reset_ms(at_ms),
            }
            for spec, budget in self._accounts.get(account, {}).items()
        ]


def _same_window(known: Mapping[Spec, Budget], spec: Spec) -> Budget | None:
    for other, budget in known.items():
        if (other.window, other.time_zone) == (spec.window, spec.time_zone):
            return budget
    return None


@lru_cache(maxsize=10_000)
def _amounts(spec: Spec) -> tuple[int, int | None]:
    soft = None if spec.soft_usd is None else micro_usd(repr(spec.soft_usd))
    return micro_usd(repr(spec.usd)), soft


def _refusal(account: str, spec: Spec, budget: Budget, micro: int, at_ms: int) -> BudgetExceeded:
    spent = budget.settled(at_ms)
    held = budget.limit - budget.remaining(at_ms) - spent
    sums = f"Current cost: {_usd(spent)}, Max budget: {_usd(budget.limit)}"
    why = f"{account} per {spec.window}; this request may cost up to {_usd(micro)}"
    if spent + micro <= budget.limit:
        return BudgetExceeded(
            f"Budget is held by calls that run. {sums} ({why}, and {_usd(held)} is held)",
            code="rate_limit_exceeded",
            headers={"Retry-After": _RETRY_S},
        )
    return BudgetExceeded(
        f"Budget has been exceeded! {sums} ({why})", headers={"x-should-retry": "false"}
    )


def _usd(micro: int) -> str:
    """Dollars in plain digits, with at least one decimal: "0.00003"."""
    text = f"{micro / 1e6:.6f}".rstrip("0")
    return f"{text}0" if text.endswith(".") else text
