"""The one table of the self test: which places of which route a text can stand in.

Whoever adds a route that a model answers, a field, an item or a part enters it here, or in the
table of its dialect; tests/test_guard_matrix.py fails until it is.
"""

from anos import selftest_answers, selftest_chat, selftest_completions, selftest_responses
from anos.selftest_places import Field, Place

# By the POST route, as in anos/routes.py.
FIELDS: dict[str, tuple[Field, ...]] = {
    "/v1/responses": selftest_responses.FIELDS,
    "/v1/chat/completions": selftest_chat.FIELDS,
}
PLACES: tuple[Place, ...] = (*selftest_answers.PLACES, *selftest_completions.PLACES)
# Routes of callers that have no fields, and why.
WITHOUT_FIELDS = {
    "/v1/responses/{id}/cancel": "it has no body",
    "/v1/moderations": "what is asked about a text is no model",
}
# Fields that no model reads, so that no guard does.
UNREAD = (
    *("model", "previous_response_id", "metadata", "user", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention"),
)
