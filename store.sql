-- All SQL of Anos Gateway: migrations in order, then named statements. anos/store.py runs them.
-- A released migration is never edited: the next change is a new block.

-- migration 1: responses and their items as a tree, large bodies once per project, one exchange per request

CREATE TABLE responses (
    seq INTEGER PRIMARY KEY,         -- order of writing; also names the segment this response opened, if it opened one
    id TEXT NOT NULL UNIQUE,         -- resp_..., the milliseconds first: appended to the index, not spread over it
    project TEXT NOT NULL,           -- owner: project:<name> or key:<name>
    parent_id TEXT,                  -- previous_response_id
    root INTEGER,                    -- seq of the first turn of the tree; NULL: this is it
    branch INTEGER,                  -- place in the parent's segment at which this one's segment begins; NULL: no new segment, or no parent
    input_place INTEGER NOT NULL,    -- first place of its own input
    output_place INTEGER NOT NULL,   -- first place of its output; the input ends before it
    end_place INTEGER NOT NULL,      -- the output ends before it
    status TEXT NOT NULL,            -- queued, in_progress, completed, incomplete, failed, cancelled
    background INTEGER NOT NULL,     -- 1: created with background
    deleted INTEGER NOT NULL,        -- 1: a tombstone that keeps its places occupied
    model TEXT NOT NULL,             -- public model name
    created_ms INTEGER NOT NULL,     -- Unix time
    completed_ms INTEGER,            -- Unix time; NULL: not finished
    body BLOB NOT NULL               -- the Response as JSON without output and choices; empty in a tombstone
) STRICT;

-- Both are partial: a single foreground response pays for neither.
CREATE INDEX responses_tree ON responses (root, created_ms) WHERE root IS NOT NULL;
CREATE INDEX responses_unfinished ON responses (seq) WHERE status IN ('queued', 'in_progress');

-- A conversation without branches is one segment, so its history is one range of places. A place is a single integer and the
-- rowid, because a table keyed by rowid packs appended rows and keeps a row of up to 4 kB in its page; one keyed by
-- (segment, position) WITHOUT ROWID splits pages in halves and moves every row over 1 kB to overflow pages.
CREATE TABLE items (
    place INTEGER PRIMARY KEY,       -- segment * 2^24 + position; never used again
    id TEXT NOT NULL,                -- msg_..., fc_..., or the upstream's; not unique
    project TEXT NOT NULL,           -- owner
    seq INTEGER NOT NULL,            -- the response that brought it: the newest of equal ids has the highest
    body BLOB,                       -- JSON; NULL: the body is a blob, or was deleted
    blob BLOB                        -- SHA-256 of a body kept in blobs
) STRICT;

CREATE INDEX items_by_id ON items (project, id, seq);
CREATE INDEX items_by_blob ON items (project, blob) WHERE blob IS NOT NULL;
CREATE INDEX items_deleted ON items (place) WHERE body IS NULL AND blob IS NULL;

CREATE TABLE blobs (
    project TEXT NOT NULL,           -- owner; equal bodies of two projects are two rows
    sha256 BLOB NOT NULL,            -- of body
    body BLOB NOT NULL,              -- an item's JSON, over 16 KiB
    PRIMARY KEY (project, sha256)
) STRICT;

CREATE TABLE exchanges (
    seq INTEGER PRIMARY KEY,         -- order of settlement
    request_id TEXT NOT NULL,        -- x-request-id; a client may send one twice
    response_id TEXT,                -- NULL: the request made or named none
    started_ms INTEGER NOT NULL,     -- Unix time the head of the request was read
    duration_us INTEGER NOT NULL,    -- until the last byte was handed to the socket
    overhead_us INTEGER,             -- part of duration_us not spent waiting for the upstream
    key TEXT NOT NULL,               -- key name; master for the master key
    project TEXT NOT NULL,           -- owner
    method TEXT NOT NULL,            -- HTTP method
    route TEXT NOT NULL,             -- path template: /v1/responses/{id}
    model TEXT,                      -- public model name
    provider TEXT,                   -- who answered; NULL: no upstream was called
    deployment TEXT,                 -- the provider's name for the model
    status INTEGER NOT NULL,         -- HTTP status sent; 499: the client left
    finish TEXT,                     -- how the response ended: completed, incomplete, failed, cancelled
    error_code TEXT,                 -- error.code sent, as text
    input_tokens INTEGER,            -- NULL: not known
    output_tokens INTEGER,           -- NULL: not known
    usage_source TEXT                -- where the counts come from: upstream, estimated
) STRICT;

-- migration 2: keys, budgets' reservations, spend, bodies, and two logs that cannot be altered unseen

-- A row is inserted once and never updated; what corrects it is another row.
ALTER TABLE exchanges ADD COLUMN client TEXT;                  -- keyed hash of the client's address
ALTER TABLE exchanges ADD COLUMN first_byte_us INTEGER;        -- until the first byte of a stream; NULL: no stream
ALTER TABLE exchanges ADD COLUMN counted INTEGER NOT NULL DEFAULT 0;   -- 1: counts as a request against rate limits
ALTER TABLE exchanges ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;  -- calls of upstreams
ALTER TABLE exchanges ADD COLUMN failures TEXT;                -- JSON: the attempts that failed; NULL: none
ALTER TABLE exchanges ADD COLUMN guards TEXT;                  -- JSON: a receipt of each guard that looked
ALTER TABLE exchanges ADD COLUMN cached_tokens INTEGER;        -- part of input_tokens
ALTER TABLE exchanges ADD COLUMN cache_write_tokens INTEGER;   -- part of input_tokens
ALTER TABLE exchanges ADD COLUMN reasoning_tokens INTEGER;     -- part of output_tokens
ALTER TABLE exchanges ADD COLUMN cost INTEGER;                 -- micro-dollars; NULL: no price is known
ALTER TABLE exchanges ADD COLUMN reserved INTEGER;             -- micro-dollars that were held until the cost was known
ALTER TABLE exchanges ADD COLUMN charged_ms INTEGER;           -- Unix time the cost counts at; NULL: there is none
ALTER TABLE exchanges ADD COLUMN corrects INTEGER;             -- seq of the row whose cost this one corrects by its own
ALTER TABLE exchanges ADD COLUMN request_bytes INTEGER;        -- of the body, inflated
ALTER TABLE exchanges ADD COLUMN response_bytes INTEGER;       -- of the body
ALTER TABLE exchanges ADD COLUMN request_digest TEXT;          -- SHA-256 of the body, where the key asks for it
ALTER TABLE exchanges ADD COLUMN response_digest TEXT;         -- SHA-256 of the body, where the key asks for it
ALTER TABLE exchanges ADD COLUMN digest BLOB;                  -- keyed hash of the row before and of this one; NULL: before migration 2

CREATE INDEX exchanges_by_start ON exchanges (started_ms);
CREATE INDEX exchanges_by_request ON exchanges (request_id);
CREATE INDEX exchanges_by_response ON exchanges (response_id) WHERE response_id IS NOT NULL;
CREATE INDEX exchanges_by_corrected ON exchanges (corrects) WHERE corrects IS NOT NULL;

CREATE TABLE bodies (
    seq INTEGER PRIMARY KEY,         -- of the exchange
    started_ms INTEGER NOT NULL,     -- of the exchange
    request BLOB,                    -- as the client sent it, inflated
    response BLOB                    -- as it was written to the client
) STRICT;

-- What is held of budgets by calls that run. A row is durable before the upstream is called and goes in the transaction that
-- inserts the exchange; what a crash leaves here is charged in full at the next start.
CREATE TABLE reservations (
    id INTEGER PRIMARY KEY,
    micro_usd INTEGER NOT NULL,
    key TEXT NOT NULL,
    project TEXT NOT NULL,
    exchange BLOB NOT NULL           -- JSON of what its row is made from if a crash ends the call
) STRICT;

-- Sums of exchanges by quarter of an hour: every time zone begins its days on one.
CREATE TABLE spend (
    quarter_ms INTEGER NOT NULL,     -- Unix time the quarter began
    key TEXT NOT NULL,
    project TEXT NOT NULL,
    model TEXT NOT NULL,
    requests INTEGER NOT NULL,
    failed INTEGER NOT NULL,         -- of the requests: status 400 and over
    input_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL,           -- micro-dollars
    PRIMARY KEY (quarter_ms, key, project, model)
) STRICT, WITHOUT ROWID;

CREATE INDEX spend_by_key ON spend (key, quarter_ms);
CREATE INDEX spend_by_project ON spend (project, quarter_ms);

CREATE TABLE keys (
    name TEXT PRIMARY KEY,
    digest BLOB NOT NULL,            -- SHA-256 of the key; empty in a tombstone, which keeps the name from being given again
    old_digest BLOB,                 -- of the key before the last rotation
    old_until_ms INTEGER,            -- Unix time the old key ends
    deleted INTEGER NOT NULL,        -- 1: a tombstone
    settings BLOB NOT NULL           -- JSON
) STRICT;

CREATE TABLE changes (
    seq INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,          -- Unix time
    actor TEXT NOT NULL,             -- key name
    request_id TEXT NOT NULL,        -- of the exchange that brought it; empty: a signal
    action TEXT NOT NULL,            -- key.create, config.reload, ...
    object TEXT NOT NULL,            -- key:<name>, config, ...
    before TEXT,                     -- JSON
    after TEXT,                      -- JSON
    digest BLOB NOT NULL             -- keyed hash of the row before and of this one
) STRICT;

-- Where a log ended or was cut off, signed; rows up to it may go.
CREATE TABLE checkpoints (
    log TEXT NOT NULL,               -- exchanges, changes
    seq INTEGER NOT NULL,            -- last row of the part
    at_ms INTEGER NOT NULL,          -- Unix time
    digest BLOB NOT NULL,            -- of that row
    secret TEXT NOT NULL,            -- which secret signed; not the secret
    signature BLOB NOT NULL,
    PRIMARY KEY (log, seq)
) STRICT, WITHOUT ROWID;

-- migration 3: which guards have looked at a conversation, so that they need not look at all of it with every turn

-- The version of the guards that found nothing in the input and in all that it inherits; NULL: that is not known.
ALTER TABLE responses ADD COLUMN cleared TEXT;

-- name: insert_response
INSERT INTO responses (seq, id, project, parent_id, root, branch, input_place, output_place, end_place, status, background,
    deleted, model, created_ms, completed_ms, body, cleared)
VALUES (:seq, :id, :project, :parent_id, :root, :branch, :input_place, :output_place, :end_place, :status, :background,
    :deleted, :model, :created_ms, :completed_ms, :body, :cleared);

-- name: insert_item
INSERT INTO items (place, id, project, seq, body, blob)
VALUES (:place, :id, :project, :seq, :body, :blob);

-- name: insert_blob
INSERT INTO blobs (project, sha256, body)
VALUES (:project, :sha256, :body)
ON CONFLICT DO NOTHING;

-- name: insert_exchange
INSERT INTO exchanges (seq, request_id, response_id, started_ms, duration_us, overhead_us, key, project, method, route, model, provider,
    deployment, status, finish, error_code, input_tokens, output_tokens, usage_source, client, first_byte_us, counted,
    attempts, failures, guards, cached_tokens, cache_write_tokens, reasoning_tokens, cost, reserved, charged_ms,
    corrects, request_bytes, response_bytes, request_digest, response_digest, digest)
VALUES (:seq, :request_id, :response_id, :started_ms, :duration_us, :overhead_us, :key, :project, :method, :route, :model,
    :provider, :deployment, :status, :finish, :error_code, :input_tokens, :output_tokens, :usage_source, :client,
    :first_byte_us, :counted, :attempts, :failures, :guards, :cached_tokens, :cache_write_tokens, :reasoning_tokens,
    :cost, :reserved, :charged_ms, :corrects, :request_bytes, :response_bytes, :request_digest, :response_digest,
    :digest);

-- name: last_seq
SELECT coalesce(max(seq), 0) FROM responses;

-- name: parent
-- A parent as a child's placing needs it, with the first free place of its segment.
SELECT
    coalesce(r.root, r.seq) AS root,
    r.end_place,
    r.status,
    (
        SELECT max(i.place) + 1
        FROM items AS i
        WHERE i.place >= (r.end_place >> 24) << 24
            AND i.place < ((r.end_place >> 24) + 1) << 24
    ) AS free_place
FROM responses AS r
WHERE r.id = :id AND r.project = :project;

-- name: response
SELECT
    seq,
    parent_id,
    input_place,
    output_place,
    end_place,
    status,
    background,
    deleted,
    model,
    created_ms,
    completed_ms,
    body,
    cleared
FROM responses
WHERE id = :id AND project = :project;

-- name: finish_response
UPDATE responses
SET
    end_place = :end_place,
    status = :status,
    completed_ms = :completed_ms,
    body = :body
WHERE seq = :seq;

-- name: unfinished_responses
SELECT seq, body
FROM responses
WHERE status IN ('queued', 'in_progress')
ORDER BY seq;

-- name: fail_response
UPDATE responses
SET
    status = 'failed',
    completed_ms = :completed_ms,
    body = :body
WHERE seq = :seq;

-- name: bury_response
UPDATE responses
SET
    deleted = 1,
    body = x''
WHERE seq = :seq;

-- name: empty_items
UPDATE items
SET
    body = NULL,
    blob = NULL
WHERE place >= :low AND place < :high;

-- name: blobs_of_items
SELECT DISTINCT project, blob
FROM items
WHERE place >= :low AND place < :high AND blob IS NOT NULL;

-- name: drop_unused_blob
DELETE FROM blobs
WHERE project = :project
    AND sha256 = :blob
    AND NOT EXISTS (SELECT 1 FROM items WHERE items.project = :project AND items.blob = :blob);

-- name: chain
-- The ranges of items before a place, the newest segment first. A range is broken if anything in it was deleted, and its
-- segment's first response tells what items cannot: that it was deleted without having any, or that its parent was gone.
WITH RECURSIVE chain (depth, low, high) AS (
    SELECT
        0,
        (:place >> 24) << 24,
        :place
    UNION ALL
    SELECT
        chain.depth + 1,
        (r.branch >> 24) << 24,
        r.branch
    FROM chain
    JOIN responses AS r ON r.seq = chain.low >> 24
    WHERE r.branch IS NOT NULL
)
SELECT
    chain.low,
    chain.high,
    r.seq IS NULL
    OR r.deleted = 1
    OR (r.parent_id IS NOT NULL AND r.branch IS NULL)
    OR EXISTS (
        SELECT 1
        FROM items AS i
        WHERE i.place >= chain.low AND i.place < chain.high AND i.body IS NULL AND i.blob IS NULL
    ) AS broken
FROM chain
LEFT JOIN responses AS r ON r.seq = chain.low >> 24
ORDER BY chain.depth;

-- name: items_ascending
SELECT i.id, coalesce(i.body, b.body)
FROM items AS i
LEFT JOIN blobs AS b ON b.project = i.project AND b.sha256 = i.blob
WHERE i.place >= :low AND i.place < :high
ORDER BY i.place
LIMIT :limit;

-- name: items_descending
SELECT i.id, coalesce(i.body, b.body)
FROM items AS i
LEFT JOIN blobs AS b ON b.project = i.project AND b.sha256 = i.blob
WHERE i.place >= :low AND i.place < :high
ORDER BY i.place DESC
LIMIT :limit;

-- name: places_of_item
SELECT place
FROM items
WHERE project = :project AND id = :id;

-- name: newest_item
SELECT coalesce(i.body, b.body)
FROM items AS i
LEFT JOIN blobs AS b ON b.project = i.project AND b.sha256 = i.blob
WHERE i.project = :project AND i.id = :id AND (i.body IS NOT NULL OR i.blob IS NOT NULL)
ORDER BY i.seq DESC, i.place DESC
LIMIT 1;

-- name: oldest_responses
SELECT seq, root, created_ms, input_place, end_place
FROM responses
WHERE seq > :seq
ORDER BY seq
LIMIT :limit;

-- name: turn_since
SELECT 1
FROM responses
WHERE root = :root AND created_ms >= :created_ms
LIMIT 1;

-- name: newest_of_tree
SELECT seq, input_place, end_place
FROM responses
WHERE root = :root
ORDER BY created_ms DESC, seq DESC
LIMIT :limit;

-- name: remove_items
DELETE FROM items
WHERE place >= :low AND place < :high;

-- name: remove_response
DELETE FROM responses
WHERE seq = :seq;

-- name: probe_write
-- 1 MiB of nothing: shows that the disk has room for a group, not just for a page.
INSERT OR REPLACE INTO blobs (project, sha256, body)
VALUES ('', x'', zeroblob(1048576));

-- name: probe_clear
DELETE FROM blobs
WHERE project = '';

-- name: insert_reservation
INSERT INTO reservations (id, micro_usd, key, project, exchange)
VALUES (:id, :micro_usd, :key, :project, :exchange);

-- name: drop_reservations
-- :ids is a JSON array.
DELETE FROM reservations
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: reservations
SELECT id, key, project, exchange
FROM reservations
ORDER BY id;

-- name: insert_body
INSERT INTO bodies (seq, started_ms, request, response)
VALUES (:seq, :started_ms, :request, :response);

-- name: add_spend
-- What is too large for the column would be refused with the exchange it is of.
INSERT INTO spend (quarter_ms, key, project, model, requests, failed, input_tokens, cached_tokens, output_tokens,
    reasoning_tokens, cost)
VALUES (:quarter_ms, :key, :project, :model, :requests, :failed, :input_tokens, :cached_tokens, :output_tokens,
    :reasoning_tokens, :cost)
ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests,
    failed = failed + excluded.failed,
    input_tokens = min(input_tokens + excluded.input_tokens, 9223372036854775807),
    cached_tokens = min(cached_tokens + excluded.cached_tokens, 9223372036854775807),
    output_tokens = min(output_tokens + excluded.output_tokens, 9223372036854775807),
    reasoning_tokens = min(reasoning_tokens + excluded.reasoning_tokens, 9223372036854775807),
    cost = min(cost + excluded.cost, 9223372036854775807);

-- name: end_of_exchanges
SELECT seq, digest
FROM exchanges
ORDER BY seq DESC
LIMIT 1;

-- name: end_of_changes
SELECT seq, digest
FROM changes
ORDER BY seq DESC
LIMIT 1;

-- name: insert_change
INSERT INTO changes (seq, at_ms, actor, request_id, action, object, before, after, digest)
VALUES (:seq, :at_ms, :actor, :request_id, :action, :object, :before, :after, :digest);

-- name: put_key
INSERT OR REPLACE INTO keys (name, digest, old_digest, old_until_ms, deleted, settings)
VALUES (:name, :digest, :old_digest, :old_until_ms, :deleted, :settings);

-- name: keys
SELECT name, digest, old_digest, old_until_ms, deleted, settings
FROM keys
ORDER BY name;

-- name: spent_by_key
-- total() and not sum(), which fails where a sum is too large: it is exact up to 9e15, or 9 billion dollars.
SELECT CAST(total(cost) AS INTEGER)
FROM spend
WHERE key = :name AND quarter_ms >= :start_ms;

-- name: spent_by_project
SELECT CAST(total(cost) AS INTEGER)
FROM spend
WHERE project = :name AND quarter_ms >= :start_ms;

-- name: spent_by_all
SELECT CAST(total(cost) AS INTEGER)
FROM spend
WHERE quarter_ms >= :start_ms;

-- name: recent_exchanges
-- Newest first, in the order they ended: whoever reads stops at the first that ended too long ago. What a crash ended was
-- written at the start after it, and when it ended is not known.
SELECT
    key,
    project,
    model,
    started_ms,
    started_ms + duration_us / 1000 AS ended_ms,
    counted,
    coalesce(input_tokens, 0) + coalesce(output_tokens, 0) AS tokens,
    usage_source IS 'crash' AS is_lost
FROM exchanges
ORDER BY seq DESC;

-- name: spend_sums
-- What is not asked for is '' in every row and so groups nothing.
SELECT
    CASE WHEN :by_key THEN key ELSE '' END AS key_group,
    CASE WHEN :by_project THEN project ELSE '' END AS project_group,
    CASE WHEN :by_model THEN model ELSE '' END AS model_group,
    sum(requests),
    sum(failed),
    CAST(total(input_tokens) AS INTEGER),
    CAST(total(cached_tokens) AS INTEGER),
    CAST(total(output_tokens) AS INTEGER),
    CAST(total(reasoning_tokens) AS INTEGER),
    CAST(total(cost) AS INTEGER)
FROM spend
WHERE quarter_ms >= :low_ms AND quarter_ms < :high_ms
    AND (:key IS NULL OR key = :key)
    AND (:project IS NULL OR project = :project)
    AND (:model IS NULL OR model = :model)
GROUP BY key_group, project_group, model_group;

-- name: spend_total
-- The same where nothing is asked for: without groups it takes a third of the time.
SELECT
    '',
    '',
    '',
    sum(requests),
    sum(failed),
    CAST(total(input_tokens) AS INTEGER),
    CAST(total(cached_tokens) AS INTEGER),
    CAST(total(output_tokens) AS INTEGER),
    CAST(total(reasoning_tokens) AS INTEGER),
    CAST(total(cost) AS INTEGER)
FROM spend
WHERE quarter_ms >= :low_ms AND quarter_ms < :high_ms
    AND (:key IS NULL OR key = :key)
    AND (:project IS NULL OR project = :project)
    AND (:model IS NULL OR model = :model);

-- name: ends_of_spend
-- Each by the index; asked for together they would be looked for in every row.
SELECT (SELECT min(quarter_ms) FROM spend), (SELECT max(quarter_ms) FROM spend);

-- name: requests_end
-- The last of so many rows before a place, found in the index alone: what a search looks at in one read is bounded.
SELECT started_ms, seq
FROM exchanges
WHERE (started_ms, seq) < (:at_ms, :at_seq) AND started_ms >= :since_ms
ORDER BY started_ms DESC, seq DESC
LIMIT 1 OFFSET :rows - 1;

-- name: requests
SELECT seq, request_id, response_id, started_ms, duration_us, first_byte_us, key, project, method, route, model, provider,
    deployment, status, finish, error_code, input_tokens, output_tokens, cost, corrects
FROM exchanges
WHERE (started_ms, seq) < (:at_ms, :at_seq)
    AND (started_ms, seq) >= (:end_ms, :end_seq)
    AND (:key IS NULL OR key = :key)
    AND (:project IS NULL OR project = :project)
    AND (:model IS NULL OR model = :model)
    AND (:route IS NULL OR route = :route)
    AND status BETWEEN :status_low AND :status_high
ORDER BY started_ms DESC, seq DESC
LIMIT :limit;

-- name: requests_of_response
SELECT seq, request_id, response_id, started_ms, duration_us, first_byte_us, key, project, method, route, model, provider,
    deployment, status, finish, error_code, input_tokens, output_tokens, cost, corrects
FROM exchanges
WHERE response_id = :response_id
    AND seq < :at_seq
    AND started_ms >= :since_ms
    AND started_ms < :until_ms
    AND (:key IS NULL OR key = :key)
    AND (:project IS NULL OR project = :project)
    AND (:model IS NULL OR model = :model)
    AND (:route IS NULL OR route = :route)
    AND status BETWEEN :status_low AND :status_high
ORDER BY seq DESC
LIMIT :limit;

-- name: request
-- Everything but the digests.
SELECT seq, request_id, response_id, started_ms, duration_us, overhead_us, first_byte_us, client, key, project, method, route,
    model, provider, deployment, status, finish, error_code, counted, guards, attempts, failures, request_bytes,
    response_bytes, input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, usage_source,
    reserved, cost, charged_ms, corrects
FROM exchanges
WHERE seq = :seq;

-- name: seqs_of_request
SELECT seq
FROM exchanges
WHERE request_id = :request_id
ORDER BY seq DESC
LIMIT :limit;

-- name: corrections
SELECT seq, started_ms, cost
FROM exchanges
WHERE corrects = :seq
ORDER BY seq;

-- name: ends_of_responses
SELECT coalesce((SELECT min(seq) FROM responses), 0), coalesce((SELECT max(seq) FROM responses), 0);

-- name: stored_responses
SELECT seq, id, project, parent_id, model, status, background, created_ms, completed_ms,
    output_place - input_place AS input_items,
    end_place - output_place AS output_items
FROM responses
WHERE seq < :at_seq
    AND seq >= :end_seq
    AND deleted = 0
    AND created_ms >= :since_ms
    AND (:project IS NULL OR project = :project)
    AND (:model IS NULL OR model = :model)
    AND (:status IS NULL OR status = :status)
ORDER BY seq DESC
LIMIT :limit;

-- name: response_written
-- When the first row from a place on was written, and so at the latest every row before it.
SELECT CASE WHEN background THEN created_ms ELSE coalesce(completed_ms, created_ms) END
FROM responses
WHERE seq >= :seq
ORDER BY seq
LIMIT 1;

-- name: charged_end
SELECT started_ms, seq
FROM exchanges
WHERE (started_ms, seq) > (:at_ms, :at_seq) AND started_ms < :until_ms
ORDER BY started_ms, seq
LIMIT 1 OFFSET :rows - 1;

-- name: charged
-- The exchanges that have tokens an upstream counted or we did, with what they cost by all rows together.
SELECT seq, key, project, model, provider, deployment, coalesce(charged_ms, started_ms) AS charged_ms, input_tokens,
    output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens,
    coalesce(cost, 0) + (
        SELECT CAST(total(c.cost) AS INTEGER)
        FROM exchanges AS c
        WHERE c.corrects = e.seq
    ) AS charged
FROM exchanges AS e
WHERE (started_ms, seq) > (:at_ms, :at_seq)
    AND (started_ms, seq) <= (:end_ms, :end_seq)
    AND input_tokens IS NOT NULL
    AND provider IS NOT NULL
    AND model IS NOT NULL
    AND usage_source IN ('upstream', 'estimated')
    AND corrects IS NULL
    AND (:model IS NULL OR model = :model)
ORDER BY started_ms, seq;

-- name: exchanges_after
-- The columns in the order in which they are inserted: that is how a row's digest covers them.
SELECT
    seq,
    request_id,
    response_id,
    started_ms,
    duration_us,
    overhead_us,
    key,
    project,
    method,
    route,
    model,
    provider,
    deployment,
    status,
    finish,
    error_code,
    input_tokens,
    output_tokens,
    usage_source,
    client,
    first_byte_us,
    counted,
    attempts,
    failures,
    guards,
    cached_tokens,
    cache_write_tokens,
    reasoning_tokens,
    cost,
    reserved,
    charged_ms,
    corrects,
    request_bytes,
    response_bytes,
    request_digest,
    response_digest,
    digest
FROM exchanges
WHERE seq > :seq
ORDER BY seq
LIMIT :limit;

-- name: changes_after
-- As exchanges_after, or those of a time only.
SELECT
    seq,
    at_ms,
    actor,
    request_id,
    action,
    object,
    before,
    after,
    digest
FROM changes
WHERE seq > :seq
    AND (:since_ms IS NULL OR at_ms >= :since_ms)
    AND (:until_ms IS NULL OR at_ms < :until_ms)
ORDER BY seq
LIMIT :limit;

-- name: start_of_exchanges
SELECT min(seq) FROM exchanges;

-- name: start_of_changes
SELECT min(seq) FROM changes;

-- name: checkpoints
SELECT seq, at_ms, digest, secret, signature
FROM checkpoints
WHERE log = :log
ORDER BY seq;

-- name: put_checkpoint
INSERT OR REPLACE INTO checkpoints (log, seq, at_ms, digest, secret, signature)
VALUES (:log, :seq, :at_ms, :digest, :secret, :signature);

-- name: cut_exchanges
DELETE FROM exchanges
WHERE seq <= :seq;

-- name: cut_changes
DELETE FROM changes
WHERE seq <= :seq;

-- name: cut_checkpoints
DELETE FROM checkpoints
WHERE log = :log AND seq < :seq;

-- name: sizes_of_bodies
-- Neither body is read for its length.
SELECT seq, length(request), length(response)
FROM bodies
WHERE seq >= :first AND seq <= :last
ORDER BY seq;

-- name: oldest_bodies
SELECT seq, started_ms, coalesce(length(request), 0) + coalesce(length(response), 0)
FROM bodies
ORDER BY seq
LIMIT :limit;

-- name: cut_bodies
DELETE FROM bodies
WHERE seq <= :seq;

-- name: export_exchanges
-- In the order they began, after the row (at_ms, seq).
SELECT
    seq,
    request_id,
    response_id,
    started_ms,
    duration_us,
    overhead_us,
    first_byte_us,
    key,
    project,
    client,
    method,
    route,
    model,
    provider,
    deployment,
    status,
    finish,
    error_code,
    counted,
    attempts,
    failures,
    guards,
    input_tokens,
    cached_tokens,
    cache_write_tokens,
    output_tokens,
    reasoning_tokens,
    usage_source,
    cost,
    reserved,
    charged_ms,
    corrects,
    request_bytes,
    response_bytes,
    request_digest,
    response_digest,
    digest
FROM exchanges
WHERE started_ms >= :at_ms AND started_ms < :until_ms AND (started_ms > :at_ms OR seq > :seq)
ORDER BY started_ms, seq
LIMIT :limit;

-- name: newest_changes
SELECT
    seq,
    at_ms,
    actor,
    request_id,
    action,
    object,
    before,
    after
FROM changes
WHERE seq < :seq AND (:object IS NULL OR object = :object)
ORDER BY seq DESC
LIMIT :limit;
