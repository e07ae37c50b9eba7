-- A queue file as the release before owners and webhooks left it: a job that succeeded, one that runs, one that waits.
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, request TEXT NOT NULL, model TEXT NOT NULL, priority TEXT NOT NULL,
    video_key TEXT NOT NULL, video_s REAL NOT NULL, deadline_at_s REAL,
    state TEXT NOT NULL, created_at_s REAL NOT NULL, updated_at_s REAL NOT NULL, started_at_s REAL,
    finished_at_s REAL, version INTEGER NOT NULL, delivery INTEGER NOT NULL, attempts INTEGER NOT NULL,
    worker TEXT, progress TEXT, failure TEXT, dead_letter INTEGER NOT NULL,
    rank REAL NOT NULL, boot TEXT NOT NULL DEFAULT '', until_s REAL NOT NULL DEFAULT 0,
    settled TEXT NOT NULL DEFAULT ''
);
CREATE INDEX jobs_to_take ON jobs (rank, id) WHERE state = 'queued';
CREATE INDEX jobs_queued ON jobs (priority, video_s, created_at_s) WHERE state = 'queued';
CREATE INDEX jobs_running ON jobs (until_s, boot) WHERE state IN ('running', 'canceling');
CREATE INDEX jobs_deadline ON jobs (deadline_at_s) WHERE state = 'queued' AND deadline_at_s IS NOT NULL;
CREATE INDEX jobs_finished ON jobs (finished_at_s) WHERE finished_at_s IS NOT NULL;
CREATE INDEX jobs_unfinished_video ON jobs (video_key) WHERE finished_at_s IS NULL;
CREATE INDEX jobs_dead ON jobs (id) WHERE dead_letter = 1;
CREATE INDEX jobs_state ON jobs (state, id);
CREATE INDEX jobs_model ON jobs (model, id);
CREATE TABLE tags (tag TEXT NOT NULL, job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    PRIMARY KEY (tag, job_id)) WITHOUT ROWID;
CREATE INDEX tags_of_job ON tags (job_id);
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, at_s REAL NOT NULL,
    data TEXT NOT NULL, job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE);
CREATE INDEX events_of_job ON events (job_id, id);
CREATE TABLE results (job_id TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE, text TEXT, key TEXT);
CREATE INDEX results_key ON results (key) WHERE key IS NOT NULL;
CREATE TABLE idempotency (key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, at_s REAL NOT NULL,
    job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE);
CREATE INDEX idempotency_of_job ON idempotency (job_id);
CREATE INDEX idempotency_age ON idempotency (at_s);
CREATE TABLE workers (id TEXT PRIMARY KEY, record TEXT NOT NULL, boot TEXT NOT NULL,
    until_s REAL NOT NULL);
PRAGMA user_version = 1;
PRAGMA application_id = 1413565521;
PRAGMA journal_mode = WAL;

CREATE TEMP TABLE asked (request TEXT);
INSERT INTO asked VALUES ('{"schema": 1,
    "video": {"key": "abababababababababababababababababababababababababababababababab", "name": "run.mp4",
        "size_bytes": 1000, "duration_s": 10.0},
    "model": "m",
    "options": {"min_score": null, "top_k": null, "labels": null, "start_s": null, "end_s": null, "include": []},
    "priority": "normal", "tags": ["x"], "timeout_s": 3600.0, "deadline_at_s": null, "retry_of": null}');
INSERT INTO jobs SELECT '01a20f381eed84084aa218a34e0cb662', request, 'm', 'normal',
    'abababababababababababababababababababababababababababababababab', 10.0, NULL, 'succeeded',
    1800000000.0, 1800000000.0, 1800000000.0, 1800000000.0, 3, 1, 1, 'w1', NULL, NULL, 0, 1800000060.0, 'first boot',
    1000.0, '1 78de3a3fa6345770ef03c2a26720552dd1a1a1d9708678e3d20f8a80fa6a2ce0' FROM asked;
INSERT INTO jobs SELECT '01a20f381ef90db7a04652ba708b8c88', request, 'm', 'normal',
    'abababababababababababababababababababababababababababababababab', 10.0, NULL, 'running',
    1800000000.0, 1800000000.0, 1800000000.0, NULL, 2, 1, 1, 'w1', NULL, NULL, 0, 1800000060.0, 'first boot',
    1001.0, '' FROM asked;
INSERT INTO jobs SELECT '01a20f381f0089563ed165e2c08fc7b9', request, 'm', 'normal',
    'abababababababababababababababababababababababababababababababab', 10.0, NULL, 'queued',
    1800000000.0, 1800000000.0, NULL, NULL, 1, 0, 0, NULL, NULL, NULL, 0, 1800000060.0, '', 0.0, '' FROM asked;
INSERT INTO tags SELECT 'x', id FROM jobs;
INSERT INTO results VALUES ('01a20f381eed84084aa218a34e0cb662', '{}', NULL);
INSERT INTO idempotency VALUES ('k', 'f', 1800000000.0, '01a20f381eed84084aa218a34e0cb662');
INSERT INTO events (kind, at_s, data, job_id) SELECT 'state', 1800000000.0, '{"state": "queued", "attempts": 0}', id
    FROM jobs;
