"""The chain that makes a log tamper-evident: a keyed hash of each row and of the one before it.

Who has the database but not the secret can neither alter, remove, insert nor reorder a row unseen.
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal

import msgspec
from msgspec import Struct

START = bytes(32)  # stands for the row before the first

Log = Literal["exchanges", "changes"]
LOGS: tuple[Log, ...] = ("exchanges", "changes")

# What no check of the file alone can find; said with every report.
UNDETECTABLE = (
    "what somebody did who has the gateway's secret, too",
    "rows cut off at the end together with the checkpoints that were made after them, "
    "unless a head is given",
    "old rows cut off up to a checkpoint, as retention does it",
    "bodies that were removed, as retention does it",
    "sums of spend that were altered: they are made from the rows, and no row is made from them",
    "what was never written, and what the gateway was made to write",
)

# SHA-256 of the bodies kept with an exchange, request and answer, hexadecimal; None: not there.
Bodies = tuple[str | None, str | None]
# Where a row of the exchanges has those of the bodies it was made with.
BODY_DIGESTS = slice(-3, -1)

_encode = msgspec.json.Encoder().encode


def link(secret: bytes, previous: bytes, values: tuple[Any, ...]) -> bytes:
    """The digest of a row: 32 bytes, from its columns in order and the digest of the row before.

    Keyed BLAKE2b is a message authentication code by itself (RFC 7693, section 2.9).
    """
    return blake2b(previous + _encode(values), digest_size=32, key=secret).digest()


def fingerprint(secret: bytes) -> str:
    """Tells one secret from another, and says nothing else about it."""
    return blake2b(digest_size=8, key=secret, person=b"fingerprint").hexdigest()


def sign(secret: bytes, log: Log, seq: int, at_ms: int, digest: bytes) -> bytes:
    """The signature of a checkpoint: 32 bytes."""
    values = _encode((log, seq, at_ms, digest.hex()))
    return blake2b(values, digest_size=32, key=secret, person=b"checkpoint").digest()


class Signed(Struct, frozen=True):
    """A checkpoint: the row a log ended with, or was cut off after, at a time.

    `secret` is the fingerprint of the secret that keys the rows after it, up to the next one.
    """

    seq: int
    at_ms: int
    digest: bytes
    secret: str
    signature: bytes


class Head(Struct, frozen=True):
    """A row of a log that somebody noted, to know it again."""

    log: Log
    seq: int
    digest: bytes

    def __str__(self) -> str:
        return f"{self.log}:{self.seq}:{self.digest.hex()}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        """Of LOG:SEQ:HEX, or SEQ:HEX for the exchanges; raises ValueError."""
        *named, seq, digest = text.split(":")
        for log in LOGS:
            if named in ([log], [] if log == "exchanges" else [log]):
                head = cls(log, int(seq), bytes.fromhex(digest))
                if head.seq >= 0 and len(head.digest) == len(START):
                    return head
        raise ValueError("a head is LOG:SEQ:HEX, as `audit head` prints it")


class Broken(Struct, frozen=True):
    """The first row that is not as it was written, or is not there.

    `why` is altered (it or a body of it; or inserted, or moved, or a body added), missing (rows
    before it), cut (rows after the end), checkpoint (one that is not the gateway's, or says
    otherwise) or head (the row is not as noted).
    """

    seq: int
    why: Literal["altered", "missing", "cut", "checkpoint", "head"]
    sentence: str


class Report(Struct, frozen=True, kw_only=True):
    """What a walk along a log found; rows are counted."""

    log: Log
    ok: bool  # every row that has a digest is as it was written
    first: int | None  # seq; None: the log is empty
    last: int | None
    verified: int
    older: int  # from before rows had digests
    foreign: int  # written under another secret
    foreign_through: int | None  # the last of them
    checkpoints: int
    head: str
    compared: Literal["same", "gone"] | None  # the head that was given; gone: by retention
    broken: Broken | None


class Verifier:
    """One walk along a log, fed with pages of rows in order; stops at the first fault."""

    def __init__(self, log: Log, secret: bytes, head: Head | None = None) -> None:
        self.log: Log = log
        self.seq = 0  # of the last row
        self.broken: Broken | None = None
        self._secret = secret
        self._fingerprint = fingerprint(secret)
        self._noted = head
        self._met_head = False
        self._first: int | None = None
        self._digest = START
        self._is_ours = False  # whether our secret keys the next row
        self._checkpoints: Mapping[int, Signed] = {}
        self._undigested = -1  # the last row that may have no digest
        self._verified = self._older = self._foreign = 0
        self._foreign_through: int | None = None

    def feed(
        self,
        first: int | None,
        rows: Iterable[Sequence[Any]],
        checkpoints: Sequence[Signed],
        bodies: Mapping[int, Bodies] | None = None,
    ) -> None:
        """The next rows, each its columns in order with seq first and digest last.

        `first` is the first seq the log has, `checkpoints` all it has, `bodies` by seq what is kept
        with these rows, all as of these rows.
        """
        self._checkpoints = {each.seq: each for each in checkpoints}
        self._undigested = max((c.seq for c in checkpoints if c.digest == START), default=-1)
        if self._first is None:
            self._first = first
        for row in rows:
            if self.broken is None:
                kept = bodies.get(row[0]) if bodies else None
                self.broken = self._check(first, tuple(row), kept)

    def report(self) -> Report:
        """What was found; for when everything was fed."""
        self.broken = broken = self.broken or self._end()
        compared: Literal["same", "gone"] | None = None
        if self._noted is not None and broken is None:
            compared = "same" if self._met_head else "gone"
        return Report(
            log=self.log,
            ok=broken is None and not self._foreign,
            first=self._first,
            last=None if self._first is None else self.seq,
            verified=self._verified,
            older=self._older,
            foreign=self._foreign,
            foreign_through=self._foreign_through,
            checkpoints=len(self._checkpoints),
            head=str(Head(self.log, self.seq, self._digest)),
            compared=compared,
            broken=broken,
        )

    def _check(self, first: int | None, row: tuple[Any, ...], kept: Bodies | None) -> Broken | None:
        seq, digest = row[0], row[-1]
        if digest is None:
            if seq > self._undigested:
                return Broken(seq, "altered", f"Row {seq} has lost its digest.")
            digest = START
        elif seq != self.seq + 1 or self._is_at_start:
            # Rows may go while we walk, but only all of them up to a checkpoint.
            before = self._checkpoints.get(seq - 1) if seq == first else None
            if before is None:
                return Broken(seq, "missing", f"Rows before row {seq} are missing.")
            if fault := self._pass(before, before.digest):
                return fault
        is_ours = digest is not START and self._is_ours
        if is_ours and link(self._secret, self._digest, row[:-1]) != digest:
            return Broken(seq, "altered", f"Row {seq} was altered, inserted or moved.")
        if fault := _compare_bodies(row, kept):
            return fault
        self._count(seq, digest)
        self.seq = seq
        checkpoint = self._checkpoints.get(seq)
        if checkpoint is None:
            self._digest = digest
        elif fault := self._pass(checkpoint, digest):
            return fault
        return self._compare(seq, digest)

    def _count(self, seq: int, digest: bytes) -> None:
        if digest is START:
            self._older += 1
        elif self._is_ours:
            self._verified += 1
        else:
            self._foreign += 1
            self._foreign_through = seq

    @property
    def _is_at_start(self) -> bool:
        return not (self._verified or self._foreign or self._older)

    def _pass(self, checkpoint: Signed, digest: bytes) -> Broken | None:
        """Go on behind a checkpoint, if it is what it should be."""
        seq = checkpoint.seq
        self._is_ours = checkpoint.secret == self._fingerprint
        self._digest = checkpoint.digest
        signature = sign(self._secret, self.log, seq, checkpoint.at_ms, checkpoint.digest)
        if self._is_ours and checkpoint.signature != signature:
            return Broken(seq, "checkpoint", f"The checkpoint at row {seq} was not signed here.")
        if checkpoint.digest != digest:
            return Broken(seq, "checkpoint", f"Row {seq} is not the one its checkpoint was for.")
        return None

    def _compare(self, seq: int, digest: bytes) -> Broken | None:
        noted = self._noted
        if noted is None or seq != noted.seq:
            return None
        self._met_head = True
        if digest == noted.digest:
            return None
        return Broken(seq, "head", f"Row {seq} is not the one whose head was given.")

    def _end(self) -> Broken | None:
        if not self._checkpoints:
            return Broken(
                self.seq, "checkpoint", "The log has no checkpoint, and every start makes one."
            )
        newest = max(self._checkpoints.values(), key=lambda each: each.seq)
        if self._first is None and newest.seq == 0 and (fault := self._pass(newest, START)):
            return fault
        if self._noted is not None and self._noted.seq == 0:
            self._met_head = True
        expected = max(newest.seq, self._noted.seq if self._noted is not None else 0)
        if expected > self.seq:
            sentence = f"The log ends with row {self.seq}, but once had row {expected}."
            return Broken(self.seq, "cut", sentence)
        return None


def _compare_bodies(row: tuple[Any, ...], kept: Bodies | None) -> Broken | None:
    if kept is None:
        return None
    for name, found, digest in zip(("request", "answer"), kept, row[BODY_DIGESTS], strict=True):
        if found is not None and found != digest:
            word = "altered" if digest else "added"
            return Broken(row[0], "altered", f"The body of the {name} of row {row[0]} was {word}.")
    return None
