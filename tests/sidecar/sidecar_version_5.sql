-- What a sidecar of version 5 sends to its database, as that has logged it; sidecars of versions 1 to 4 send the same.
-- Batches of one receipt; one statement in a line.
-- It starts, and stores a receipt.
SELECT version, oldest FROM chio.schema_version ORDER BY version DESC LIMIT 1;
SELECT current_setting('synchronous_commit'), pg_is_in_recovery(), current_setting('server_encoding');
SELECT log_id, epoch, seq, digest FROM chio.claim(NULL, NULL, 'earlier:1', '30');
SELECT chio.append('1', '1', '0', '63a504267ea9a5201652132e3d8ee0c80f4c96d7aa469367ddde0ba6581db258', '30', '{}', '{a}', '{"{\"id\":\"a\",\"kernel_key\":\"abababababababababababababababababababababababababababababababab\",\"signature\":\"00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\"}"}', '{a}', '{f}', '{2026-11-29T13:22:11.533159Z}', '{a6afdbc11db98fccb8a356b2ff68ef832bbcc006a58342b209d9b919c6a60017}');
-- The tables are migrated. It stores another one, and one with conditions.
SELECT chio.append('1', '1', '1', 'a6afdbc11db98fccb8a356b2ff68ef832bbcc006a58342b209d9b919c6a60017', '30', '{cap-r}', '{b}', '{"{\"id\":\"b\",\"kernel_key\":\"abababababababababababababababababababababababababababababababab\",\"signature\":\"00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\"}"}', '{b}', '{f}', '{2026-11-29T13:22:11.596713Z}', '{07699a6177634a8c877d3c9b62973c827a014e3551d93208e4c4d213a90599f5}');
BEGIN; SET LOCAL search_path = chio, pg_catalog, pg_temp; SET LOCAL lock_timeout = 5000; SET LOCAL idle_in_transaction_session_timeout = 5000; SELECT pg_advisory_xact_lock_shared(1667787119);
SELECT pg_advisory_xact_lock(k) FROM unnest('{5571440037747538480,8488619050498942501}'::bigint[]) AS k;
SELECT request_id, fingerprint, receipt_json FROM http_receipts WHERE request_id = ANY('{c}');
SELECT capability_id FROM revoked_capabilities WHERE capability_id = ANY('{cap-r}');
SELECT a, c.ordinal, c.total FROM unnest('{acct}'::text[]) AS a CROSS JOIN LATERAL (SELECT ordinal, total FROM budget_charges WHERE account = a ORDER BY ordinal DESC LIMIT 1) AS c;
SELECT g.id, g.part, u.ordinal FROM unnest('{cap}'::text[], '{0}'::bigint[]) AS g (id, part) CROSS JOIN LATERAL ( SELECT ordinal FROM capability_invocations WHERE capability_id = g.id AND grant_index = g.part ORDER BY ordinal DESC LIMIT 1 ) AS u;
SELECT chio.append('1', '1', '2', '07699a6177634a8c877d3c9b62973c827a014e3551d93208e4c4d213a90599f5', '30', '{}', '{c}', '{"{\"id\":\"c\",\"kernel_key\":\"abababababababababababababababababababababababababababababababab\",\"signature\":\"00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\"}"}', '{c}', '{f}', '{2026-11-29T13:22:11.616663Z}', '{ec225ab53be024eb9d407d9cdbe40345c9205d5d64f6c67e0be7caf759e1c96f}');
INSERT INTO budget_charges SELECT * FROM unnest('{acct}'::text[], '{1}'::bigint[], '{1}'::bigint[], '{1}'::bigint[], '{c}'::text[]);
INSERT INTO capability_invocations SELECT * FROM unnest('{cap}'::text[], '{0}'::bigint[], '{1}'::bigint[], '{c}'::text[]);
COMMIT;
-- It stops for a while, revokes, is refused, repeats a request, lists, and ends.
BEGIN; SET LOCAL search_path = chio, pg_catalog, pg_temp; SET LOCAL lock_timeout = 5000; SET LOCAL idle_in_transaction_session_timeout = 5000; SELECT pg_advisory_xact_lock(1667787119);
SELECT capability_id FROM revoked_capabilities WHERE capability_id IN ('cap-r');
INSERT INTO revoked_capabilities VALUES ('cap-r', '1795958531');
COMMIT;
SELECT chio.append('1', '1', '3', 'ec225ab53be024eb9d407d9cdbe40345c9205d5d64f6c67e0be7caf759e1c96f', '30', '{cap-r}', '{d}', '{"{\"id\":\"d\",\"kernel_key\":\"abababababababababababababababababababababababababababababababab\",\"signature\":\"00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\"}"}', '{d}', '{f}', '{2026-11-29T13:22:11.645199Z}', '{f8de4d59db9d124d9d82c302bd1e2706393f69c1014085d7466b37317525aab9}');
BEGIN; SET LOCAL search_path = chio, pg_catalog, pg_temp; SET LOCAL lock_timeout = 5000; SET LOCAL idle_in_transaction_session_timeout = 5000; SELECT pg_advisory_xact_lock_shared(1667787119);
SELECT request_id, fingerprint, receipt_json FROM http_receipts WHERE request_id = ANY('{d}');
SELECT capability_id FROM revoked_capabilities WHERE capability_id = ANY('{cap-r}');
COMMIT;
SELECT chio.append('1', '1', '3', 'ec225ab53be024eb9d407d9cdbe40345c9205d5d64f6c67e0be7caf759e1c96f', '30', '{}', '{a}', '{"{\"id\":\"a\",\"kernel_key\":\"abababababababababababababababababababababababababababababababab\",\"signature\":\"00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\"}"}', '{a}', '{f}', '{2026-11-29T13:22:11.653554Z}', '{79081418fd28fe35052737b5df7089e252bdd0bfd8a5e224559fc919d2f6f260}');
BEGIN; SET LOCAL search_path = chio, pg_catalog, pg_temp; SET LOCAL lock_timeout = 5000; SET LOCAL idle_in_transaction_session_timeout = 5000; SELECT pg_advisory_xact_lock_shared(1667787119);
SELECT request_id, fingerprint, receipt_json FROM http_receipts WHERE request_id = ANY('{a}');
COMMIT;
BEGIN READ ONLY; SET LOCAL search_path = chio, pg_catalog, pg_temp;
SELECT chio.horizon();
COMMIT;
BEGIN READ ONLY; SET LOCAL search_path = chio, pg_catalog, pg_temp;
SELECT position, id, request_id, receipt_json, created_at FROM http_receipts WHERE position > '0' AND position <= '3' ORDER BY position LIMIT '1000';
COMMIT;
BEGIN; SET LOCAL search_path = chio, pg_catalog, pg_temp; SET LOCAL lock_timeout = 5000; SET LOCAL idle_in_transaction_session_timeout = 5000; SELECT pg_advisory_xact_lock_shared(1667787119);
SELECT chio.renew('1', '1', '30');
COMMIT;
SELECT chio.renew('1', '1', '-1');
