"""Expiry, as the running gateway does it every minute."""

import sqlite3

from anos import lifecycle
from anos.state import GATEWAY


async def test_a_response_older_than_its_days_is_gone_and_a_younger_one_is_not(gateway) -> None:
    anos = await gateway({"retention": {"responses_days": 1}})
    old, young = [(await anos.post("/v1/responses", input="Hi")).body["id"] for _ in range(2)]
    with sqlite3.connect(anos.database) as connection:
        connection.execute("UPDATE responses SET created_ms = 1 WHERE id = ?", (old,))
    connection.close()
    await lifecycle.expire(anos.app[GATEWAY])
    assert (await anos.get(f"/v1/responses/{old}")).status == 404
    assert (await anos.get(f"/v1/responses/{young}")).status == 200


async def test_an_expiry_that_cannot_be_written_is_left_to_the_next_one(gateway, caplog) -> None:
    anos = await gateway()
    await anos.app[GATEWAY].store.close()
    await lifecycle.expire(anos.app[GATEWAY])
    assert "could not be removed" in caplog.text
