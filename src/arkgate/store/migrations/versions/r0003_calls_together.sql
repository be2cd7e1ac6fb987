-- Money calls that cannot be refused are done together, one statement a table for all of them instead of
-- five a call. The others are done one after another, by the functions of the first revision.
--
-- Every row is found by its key. A plan is made once for each connection, maybe while the tables are small,
-- and would read them whole until they are analysed: so these functions switch that off, and look up in
-- LATERAL with LIMIT or in a scalar subquery, which cannot become a hash of the whole table.

-- A call with what it meets, and the balance and the day's count after it when it is done together.
CREATE TYPE planned_v2 AS (
  place bigint, verb text, call text, account text, service text,
  amount bigint, -- what a reserve holds, or what a settle gives back
  cost bigint, -- what a settle charges
  posted bigint, held bigint, used bigint, calls_limit bigint,
  certain boolean -- whether nothing can refuse it, in whatever order the statement's calls are done
);

-- To be called when the accounts are locked: what it reads of them stays so until the commit. (A hold that
-- was committed while they were being locked may name another account; the guards of `together_v2` then
-- undo the statement, and its calls are sent alone.) The calls of an account are certain together or not at
-- all:
--   no call, request id or key is there before or twice in the statement; what is settled is open;
--   money and allowance suffice for all reserves, also if no settle gave anything back.
CREATE FUNCTION plan_v2(
  now_ms bigint, verbs text[], calls text[], accounts text[], services text[], prices bigint[],
  limits bigint[], request_ids text[], keys bytea[]
) RETURNS SETOF planned_v2 LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
  RETURN QUERY
  WITH asked AS (
    SELECT t.place, t.verb, t.call, t.price, t.verb = 'reserve' AS takes, t.verb = 'settle' AS settles,
      coalesce(t.account, h.account_id) AS account, coalesce(t.service, h.service) AS service,
      t.most, t.request, t.key, h.state, h.amount_msat, h.calls_per_day
    FROM unnest(verbs, calls, accounts, services, prices, limits, request_ids, keys) WITH ORDINALITY
      AS t (verb, call, account, service, price, most, request, key, place)
    LEFT JOIN LATERAL (SELECT * FROM hold h WHERE h.call_id = t.call LIMIT 1) h ON true
  ), met AS (
    SELECT q.*, a.posted_msat, a.held_msat, coalesce(u.used, 0) AS used,
      count(*) OVER (PARTITION BY q.call) = 1 AND CASE
        WHEN q.settles THEN q.state = 'open' AND q.price <= q.amount_msat
        WHEN q.takes THEN q.state IS NULL
          AND (q.most IS NULL OR q.most >= coalesce(u.used, 0)
            + count(*) FILTER (WHERE q.takes) OVER (PARTITION BY q.account, q.service))
          AND count(*) OVER (PARTITION BY q.account, q.request) = 1
          AND (SELECT h.call_id FROM hold h
            WHERE h.account_id = q.account AND h.claimed_request_id = q.request) IS NULL
          AND (q.key IS NULL OR count(*) OVER (PARTITION BY q.account, q.key) = 1
            AND (SELECT h.call_id FROM hold h
              WHERE h.account_id = q.account AND h.idempotency_key = q.key) IS NULL)
        ELSE false
      END AS sound
    FROM asked q
    LEFT JOIN LATERAL (
      SELECT * FROM account a WHERE a.account_id = q.account AND a.kind = 'customer' LIMIT 1) a ON true
    LEFT JOIN LATERAL (
      SELECT * FROM allowance u
      WHERE u.account_id = q.account AND u.service = q.service AND u.day = now_ms / 86400000 LIMIT 1) u ON true
  )
  SELECT place, verb, call, account, service,
    CASE WHEN takes THEN price ELSE amount_msat END,
    CASE WHEN settles THEN price ELSE 0 END,
    (posted_msat - coalesce(sum(price) FILTER (WHERE settles) OVER so_far, 0))::bigint,
    (held_msat + coalesce(sum(CASE WHEN takes THEN price ELSE -amount_msat END) OVER so_far, 0))::bigint,
    used + count(*) FILTER (WHERE takes) OVER (PARTITION BY account, service ORDER BY place),
    CASE WHEN takes THEN most ELSE calls_per_day END,
    bool_and(coalesce(sound, false)) OVER of_account
      AND coalesce(coalesce(sum(price) FILTER (WHERE takes) OVER of_account, 0) <= posted_msat - held_msat, false)
  FROM met
  WINDOW of_account AS (PARTITION BY account), so_far AS (PARTITION BY account ORDER BY place);
END
$$;

CREATE FUNCTION together_v2(
  now_ms bigint, plan planned_v2[], deadlines bigint[], request_ids text[], requests bytea[], keys bytea[],
  answer_statuses bigint[], answer_types text[], answer_deadlines bigint[], answer_bodies bytea[]
) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  today bigint := now_ms / 86400000;
  takes bigint := (SELECT count(*) FROM unnest(plan) WHERE verb = 'reserve');
  settles bigint := cardinality(plan) - takes;
  met bigint;
BEGIN
  UPDATE account a SET posted_msat = a.posted_msat - s.charged, held_msat = a.held_msat + s.taken - s.given
  FROM (
    SELECT account, sum(cost) AS charged,
      coalesce(sum(amount) FILTER (WHERE verb = 'reserve'), 0) AS taken,
      coalesce(sum(amount) FILTER (WHERE verb = 'settle'), 0) AS given
    FROM unnest(plan) GROUP BY account
  ) s
  WHERE a.account_id = s.account AND a.kind = 'customer'
    AND a.posted_msat - a.held_msat >= s.taken AND a.held_msat >= s.given;
  GET DIAGNOSTICS met = ROW_COUNT;
  ASSERT met = (SELECT count(DISTINCT account) FROM unnest(plan)), 'calls done together met no balance';

  INSERT INTO allowance AS u (account_id, service, day, used, last_settled_call_id)
  SELECT account, service, today, count(*) FILTER (WHERE verb = 'reserve'),
    (array_agg(call ORDER BY place DESC) FILTER (WHERE verb = 'settle'))[1]
  FROM unnest(plan) GROUP BY account, service
  ON CONFLICT (account_id, service, day) DO UPDATE SET used = u.used + excluded.used,
    last_settled_call_id = coalesce(excluded.last_settled_call_id, u.last_settled_call_id);
  ASSERT NOT EXISTS (
    SELECT FROM unnest(plan) p JOIN allowance u
      ON u.account_id = p.account AND u.service = p.service AND u.day = today AND u.used > p.calls_limit
    WHERE p.verb = 'reserve'), 'calls done together met no allowance';

  IF takes > 0 THEN
    INSERT INTO hold (call_id, account_id, service, state, amount_msat, cost_msat, day, calls_per_day,
      taken_at_ms, deadline_ms, reason, request_id, claimed_request_id, request_hash, idempotency_key)
    SELECT call, account, service, 'open', amount, 0, today, calls_limit, now_ms, deadlines[place], '',
      request_ids[place], request_ids[place], requests[place], keys[place]
    FROM unnest(plan) WHERE verb = 'reserve' ORDER BY call;
  END IF;
  IF settles = 0 THEN
    RETURN;
  END IF;
  UPDATE hold h SET state = 'settled', cost_msat = p.cost, resolved_at_ms = now_ms
  FROM unnest(plan) p
  WHERE p.verb = 'settle' AND h.call_id = p.call AND h.call_id = ANY (ARRAY(SELECT call FROM unnest(plan)))
    AND h.state = 'open' AND h.amount_msat >= p.cost;
  GET DIAGNOSTICS met = ROW_COUNT;
  ASSERT met = settles, 'a hold was resolved twice';
  INSERT INTO transfer (transfer_id, kind, debit_account_id, credit_account_id, amount_msat, at_ms, detail)
  SELECT 'charge:' || call, 'charge', account, 'income:calls', cost, now_ms, service
  FROM unnest(plan) WHERE cost > 0 ORDER BY call;
  INSERT INTO answer (call_id, status, content_type, expires_at_ms, body)
  SELECT call, answer_statuses[place], answer_types[place], answer_deadlines[place], answer_bodies[place]
  FROM unnest(plan) WHERE verb = 'settle' AND answer_bodies[place] IS NOT NULL ORDER BY call;
END
$$;

CREATE FUNCTION at_places_v2(these anyarray, places bigint[]) RETURNS anyarray LANGUAGE sql IMMUTABLE AS $$
  SELECT array_agg(these[place] ORDER BY turn) FROM unnest(places) WITH ORDINALITY AS t (place, turn)
$$;

-- As `calls_v1`, answer for answer.
CREATE FUNCTION calls_v2(
  now_ms bigint, verbs text[], calls text[], accounts text[], services text[], prices bigint[],
  limits bigint[], deadlines bigint[], request_ids text[], requests bytea[], keys bytea[], reasons text[],
  answer_statuses bigint[], answer_types text[], answer_deadlines bigint[], answer_bodies bytea[]
) RETURNS TABLE (
  place bigint, outcome text, posted bigint, held bigint, used bigint, calls_limit bigint, funded boolean,
  answered_call text, request_id text, status bigint, content_type text, body bytea, cost bigint,
  expires_at_ms bigint
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  concerned text[];
  plan planned_v2[];
  turns bigint[];
BEGIN
  IF cardinality(verbs) > 2 THEN -- to plan costs as much as two calls
    concerned := ARRAY(
      SELECT a FROM unnest(accounts) a WHERE a IS NOT NULL
      UNION SELECT h.account_id FROM hold h WHERE h.call_id = ANY (calls));
    PERFORM FROM account a WHERE a.account_id = ANY (concerned) ORDER BY a.account_id FOR NO KEY UPDATE;
    SELECT array_agg(p) FILTER (WHERE p.certain), array_agg(p.place ORDER BY p.place) FILTER (WHERE p.certain IS NOT TRUE)
    INTO plan, turns
    FROM plan_v2(now_ms, verbs, calls, accounts, services, prices, limits, request_ids, keys) p;
  END IF;
  IF plan IS NULL THEN
    RETURN QUERY SELECT * FROM calls_v1(
      now_ms, verbs, calls, accounts, services, prices, limits, deadlines, request_ids, requests, keys, reasons,
      answer_statuses, answer_types, answer_deadlines, answer_bodies);
    RETURN;
  END IF;
  PERFORM together_v2(now_ms, plan, deadlines, request_ids, requests, keys, answer_statuses, answer_types,
    answer_deadlines, answer_bodies);
  RETURN QUERY SELECT p.place, CASE p.verb WHEN 'reserve' THEN 'reserved' ELSE 'settled' END, p.posted, p.held,
    p.used, p.calls_limit, true, NULL::text, NULL::text, NULL::bigint, NULL::text, NULL::bytea, NULL::bigint,
    NULL::bigint
  FROM unnest(plan) p;
  IF turns IS NOT NULL THEN
    RETURN QUERY SELECT turns[c.place], c.outcome, c.posted, c.held, c.used, c.calls_limit, c.funded,
      c.answered_call, c.request_id, c.status, c.content_type, c.body, c.cost, c.expires_at_ms
    FROM calls_v1(
      now_ms, at_places_v2(verbs, turns), at_places_v2(calls, turns), at_places_v2(accounts, turns),
      at_places_v2(services, turns), at_places_v2(prices, turns), at_places_v2(limits, turns),
      at_places_v2(deadlines, turns), at_places_v2(request_ids, turns), at_places_v2(requests, turns),
      at_places_v2(keys, turns), at_places_v2(reasons, turns), at_places_v2(answer_statuses, turns),
      at_places_v2(answer_types, turns), at_places_v2(answer_deadlines, turns),
      at_places_v2(answer_bodies, turns)) c;
  END IF;
END
$$;
