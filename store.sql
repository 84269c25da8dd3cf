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

-- name: insert_response
INSERT INTO responses (seq, id, project, parent_id, root, branch, input_place, output_place, end_place, status, background,
    deleted, model, created_ms, completed_ms, body)
VALUES (:seq, :id, :project, :parent_id, :root, :branch, :input_place, :output_place, :end_place, :status, :background,
    :deleted, :model, :created_ms, :completed_ms, :body);

-- name: insert_item
INSERT INTO items (place, id, project, seq, body, blob)
VALUES (:place, :id, :project, :seq, :body, :blob);

-- name: insert_blob
INSERT INTO blobs (project, sha256, body)
VALUES (:project, :sha256, :body)
ON CONFLICT DO NOTHING;

-- name: insert_exchange
INSERT INTO exchanges (request_id, response_id, started_ms, duration_us, overhead_us, key, project, method, route, model,
    provider, deployment, status, finish, error_code, input_tokens, output_tokens, usage_source)
VALUES (:request_id, :response_id, :started_ms, :duration_us, :overhead_us, :key, :project, :method, :route, :model,
    :provider, :deployment, :status, :finish, :error_code, :input_tokens, :output_tokens, :usage_source);

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
    body
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
