-- The verbs of the ledger on PostgreSQL: each one statement for the client, one transaction here.
--
-- Locks are taken in one order everywhere: account rows by their id, then an invoice, then a session,
-- then a cursor. Whoever changes an account, its holds, its allowance or its answers has locked the
-- account's row first, so what is read after that stays so until the commit.
--
-- The suffix is the version of a function's promise. A later revision adds a new one and leaves this
-- one for the replicas that still call it.

-- Room on each page, so that a row's new version lies beside the old one and no index changes.
ALTER TABLE account SET (fillfactor = 70);
ALTER TABLE allowance SET (fillfactor = 70);
ALTER TABLE hold SET (fillfactor = 85);

CREATE FUNCTION refuse_change_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'transfers are append-only';
END
$$;

CREATE TRIGGER transfer_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON transfer
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_v1();

CREATE FUNCTION used_v1(of_account text, of_service text, of_day bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT coalesce((SELECT used FROM allowance
    WHERE account_id = of_account AND service = of_service AND day = of_day), 0)
$$;

-- Whether a request was made before: null, or what `reserve` answers instead of a hold. `answered_call`
-- is the call whose stored answer comes back.
CREATE FUNCTION repeated_v1(
  now_ms bigint, of_account text, of_service text, of_request bytea, of_key bytea, used_up boolean,
  OUT outcome text, OUT answered_call text
) LANGUAGE plpgsql STABLE AS $$
DECLARE
  earlier hold%ROWTYPE;
BEGIN
  IF of_key IS NOT NULL THEN
    SELECT * INTO earlier FROM hold WHERE account_id = of_account AND idempotency_key = of_key;
    IF NOT FOUND THEN
      RETURN;
    ELSIF earlier.state = 'open' THEN
      outcome := 'in_flight';
    ELSIF earlier.service <> of_service OR earlier.request_hash <> of_request THEN
      outcome := 'key_reused';
    ELSIF EXISTS (SELECT FROM answer WHERE call_id = earlier.call_id AND expires_at_ms > now_ms) THEN
      outcome := 'answered';
      answered_call := earlier.call_id;
    ELSE
      outcome := 'answer_gone';
    END IF;
    RETURN;
  END IF;
  IF NOT used_up THEN
    RETURN;
  END IF;
  SELECT h.* INTO earlier FROM hold h WHERE h.call_id = (
    SELECT u.last_settled_call_id FROM allowance u
    WHERE u.account_id = of_account AND u.service = of_service AND u.last_settled_call_id IS NOT NULL
    ORDER BY u.day DESC LIMIT 1);
  IF FOUND AND earlier.request_hash = of_request AND EXISTS (
    SELECT FROM answer WHERE call_id = earlier.call_id AND expires_at_ms > now_ms
  ) THEN
    outcome := 'answered';
    answered_call := earlier.call_id;
  ELSIF EXISTS (
    -- Open holds are few and have an index of their own; an account's holds may be millions.
    WITH under_way AS MATERIALIZED (SELECT account_id, service, request_hash FROM hold WHERE state = 'open')
    SELECT FROM under_way
    WHERE account_id = of_account AND service = of_service AND request_hash = of_request
  ) THEN
    outcome := 'in_flight';
  END IF;
END
$$;

CREATE FUNCTION reserve_v1(
  now_ms bigint, of_call text, of_account text, of_service text, price bigint, most bigint, until_ms bigint,
  of_request_id text, of_request bytea, of_key bytea,
  OUT outcome text, OUT posted bigint, OUT held bigint, OUT used bigint, OUT calls_limit bigint,
  OUT funded boolean, OUT answered_call text
) LANGUAGE plpgsql AS $$
DECLARE
  today bigint := now_ms / 86400000;
  holder text;
  claimant text;
  limited boolean;
BEGIN
  calls_limit := most;
  SELECT a.posted_msat, a.held_msat, coalesce(u.used, 0),
    (SELECT h.account_id FROM hold h WHERE h.call_id = of_call),
    (SELECT h.call_id FROM hold h WHERE h.account_id = of_account AND h.claimed_request_id = of_request_id)
  INTO posted, held, used, holder, claimant
  FROM account a
  LEFT JOIN allowance u ON u.account_id = of_account AND u.service = of_service AND u.day = today
  WHERE a.account_id = of_account AND a.kind = 'customer';
  IF NOT FOUND THEN
    outcome := 'unknown_account'; posted := 0; held := 0; used := 0; funded := false;
    RETURN;
  END IF;
  limited := most IS NOT NULL AND used >= most;
  IF holder IS NOT NULL THEN
    outcome := CASE holder WHEN of_account THEN 'replayed' ELSE 'foreign_call' END;
  ELSIF of_key IS NOT NULL OR limited OR posted - held < price THEN
    SELECT r.outcome, r.answered_call INTO outcome, answered_call FROM repeated_v1(
      now_ms, of_account, of_service, of_request, of_key, limited OR posted - held < price) r;
  END IF;
  IF outcome IS NULL THEN
    IF claimant IS NOT NULL THEN
      outcome := 'request_id_reused';
    ELSIF limited THEN
      outcome := 'limit_reached';
    ELSIF posted - held < price THEN
      outcome := 'insufficient';
    END IF;
  END IF;
  IF outcome IS NOT NULL THEN
    funded := posted > 0 OR EXISTS (
      SELECT FROM transfer WHERE credit_account_id = of_account AND kind = 'credit');
    RETURN;
  END IF;

  UPDATE account SET held_msat = held_msat + price
  WHERE account_id = of_account AND kind = 'customer' AND posted_msat - held_msat >= price;
  ASSERT FOUND, 'a hold met no balance';
  INSERT INTO allowance AS a (account_id, service, day, used) VALUES (of_account, of_service, today, 1)
  ON CONFLICT (account_id, service, day) DO UPDATE SET used = a.used + 1
  WHERE most IS NULL OR a.used < most;
  ASSERT FOUND, 'a hold met no allowance';
  INSERT INTO hold (call_id, account_id, service, state, amount_msat, cost_msat, day, calls_per_day,
    taken_at_ms, deadline_ms, reason, request_id, claimed_request_id, request_hash, idempotency_key)
  VALUES (of_call, of_account, of_service, 'open', price, 0, today, most,
    now_ms, until_ms, '', of_request_id, of_request_id, of_request, of_key);
  outcome := 'reserved'; held := held + price; used := used + 1; funded := true;
END
$$;

-- Settles (with a cost) or releases (with a reason) an open hold.
CREATE FUNCTION resolve_v1(
  now_ms bigint, of_call text, cost bigint, why text,
  answer_status bigint, answer_type text, answer_until_ms bigint, answer_body bytea,
  OUT outcome text, OUT posted bigint, OUT held bigint, OUT used bigint, OUT calls_limit bigint
) LANGUAGE plpgsql AS $$
DECLARE
  today bigint := now_ms / 86400000;
  settles boolean := cost IS NOT NULL;
  own record;
BEGIN
  SELECT h.account_id, h.service, h.state, h.day, h.calls_per_day, h.amount_msat,
    a.posted_msat AS posted, a.held_msat AS held, coalesce(u.used, 0) AS used
  INTO own
  FROM hold h JOIN account a ON a.account_id = h.account_id
  LEFT JOIN allowance u ON u.account_id = h.account_id AND u.service = h.service AND u.day = today
  WHERE h.call_id = of_call;
  IF NOT FOUND THEN
    outcome := 'no_hold';
    RETURN;
  END IF;
  posted := own.posted;
  held := own.held;
  used := own.used;
  calls_limit := own.calls_per_day;
  IF own.state <> 'open' THEN
    outcome := CASE WHEN (own.state = 'settled') = settles THEN 'replayed' ELSE own.state END;
    RETURN;
  END IF;
  IF cost > own.amount_msat THEN
    outcome := 'cost_over_hold';
    RETURN;
  END IF;

  IF settles THEN
    UPDATE hold SET state = 'settled', cost_msat = cost, resolved_at_ms = now_ms
    WHERE call_id = of_call AND state = 'open' AND amount_msat >= cost;
  ELSE
    UPDATE hold SET state = 'released', resolved_at_ms = now_ms, reason = why, claimed_request_id = NULL,
      idempotency_key = NULL
    WHERE call_id = of_call AND state = 'open';
  END IF;
  ASSERT FOUND, 'a hold was resolved twice';
  UPDATE account SET posted_msat = posted_msat - coalesce(cost, 0), held_msat = held_msat - own.amount_msat
  WHERE account_id = own.account_id AND kind = 'customer' AND held_msat >= own.amount_msat;
  ASSERT FOUND, 'a hold was not held';
  posted := posted - coalesce(cost, 0);
  held := held - own.amount_msat;
  IF NOT settles THEN
    UPDATE allowance a SET used = a.used - 1
    WHERE a.account_id = own.account_id AND a.service = own.service AND a.day = own.day AND a.used > 0;
    ASSERT FOUND, 'a unit of allowance was not taken';
    used := used - (own.day = today)::int;
    outcome := 'released';
    RETURN;
  END IF;
  IF cost > 0 THEN
    INSERT INTO transfer (transfer_id, kind, debit_account_id, credit_account_id, amount_msat, at_ms, detail)
    VALUES ('charge:' || of_call, 'charge', own.account_id, 'income:calls', cost, now_ms, own.service);
  END IF;
  IF answer_body IS NOT NULL THEN
    INSERT INTO answer (call_id, status, content_type, expires_at_ms, body)
    VALUES (of_call, answer_status, answer_type, answer_until_ms, answer_body);
  END IF;
  INSERT INTO allowance (account_id, service, day, used, last_settled_call_id)
  VALUES (own.account_id, own.service, today, 0, of_call)
  ON CONFLICT (account_id, service, day) DO UPDATE SET last_settled_call_id = excluded.last_settled_call_id;
  outcome := 'settled';
END
$$;

-- Many money calls in one statement: the accounts are locked first, then each call is done in its turn.
CREATE FUNCTION calls_v1(
  now_ms bigint, verbs text[], calls text[], accounts text[], services text[], prices bigint[],
  limits bigint[], deadlines bigint[], request_ids text[], requests bytea[], keys bytea[], reasons text[],
  answer_statuses bigint[], answer_types text[], answer_deadlines bigint[], answer_bodies bytea[]
) RETURNS TABLE (
  place bigint, outcome text, posted bigint, held bigint, used bigint, calls_limit bigint, funded boolean,
  answered_call text, request_id text, status bigint, content_type text, body bytea, cost bigint,
  expires_at_ms bigint
) LANGUAGE plpgsql AS $$
DECLARE
  concerned text[];
  one record;
BEGIN
  concerned := ARRAY(
    SELECT a FROM unnest(accounts) a WHERE a IS NOT NULL
    UNION SELECT h.account_id FROM hold h WHERE h.call_id = ANY (calls));
  PERFORM FROM account a WHERE a.account_id = ANY (concerned) ORDER BY a.account_id FOR NO KEY UPDATE;
  FOR one IN
    SELECT * FROM unnest(verbs, calls, accounts, services, prices, limits, deadlines, request_ids, requests,
      keys, reasons, answer_statuses, answer_types, answer_deadlines, answer_bodies) WITH ORDINALITY AS t(
      verb, call, account, service, price, most, deadline, request, hash, key, reason,
      a_status, a_type, a_deadline, a_body, place)
  LOOP
    place := one.place;
    answered_call := NULL; request_id := NULL; status := NULL; content_type := NULL; body := NULL;
    cost := NULL; expires_at_ms := NULL; funded := true;
    IF one.verb = 'reserve' THEN
      SELECT r.* INTO outcome, posted, held, used, calls_limit, funded, answered_call FROM reserve_v1(
        now_ms, one.call, one.account, one.service, one.price, one.most, one.deadline, one.request, one.hash,
        one.key) r;
      IF answered_call IS NOT NULL THEN
        SELECT h.request_id, a.status, a.content_type, a.body, h.cost_msat, a.expires_at_ms
        INTO request_id, status, content_type, body, cost, expires_at_ms
        FROM hold h JOIN answer a ON a.call_id = h.call_id WHERE h.call_id = answered_call;
      END IF;
    ELSE
      SELECT r.* INTO outcome, posted, held, used, calls_limit FROM resolve_v1(
        now_ms, one.call, CASE one.verb WHEN 'settle' THEN one.price END, one.reason, one.a_status,
        one.a_type, one.a_deadline, one.a_body) r;
    END IF;
    RETURN NEXT;
  END LOOP;
END
$$;

CREATE FUNCTION advance_v1(of_node text, added bigint, settled bigint) RETURNS void LANGUAGE sql AS $$
  INSERT INTO cursor AS c (node, add_index, settle_index) SELECT of_node, added, settled
  WHERE added IS NOT NULL AND settled IS NOT NULL
  ON CONFLICT (node) DO UPDATE SET add_index = greatest(c.add_index, excluded.add_index),
    settle_index = greatest(c.settle_index, excluded.settle_index)
$$;

CREATE FUNCTION open_account_v1(of_account text, of_kind text, now_ms bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM account WHERE account_id = of_account) THEN
    INSERT INTO account (account_id, kind, posted_msat, held_msat, created_at_ms)
    VALUES (of_account, of_kind, 0, 0, now_ms) ON CONFLICT (account_id) DO NOTHING;
  END IF;
END
$$;

-- Credits a settled payment once. The channel of the notice tells every replica whose account it was.
CREATE FUNCTION fund_v1(
  now_ms bigint, of_node text, of_hash bytea, amount bigint, paid_at_ms bigint, to_account text, what text,
  added bigint, settled bigint,
  OUT outcome text, OUT account text, OUT posted bigint, OUT held bigint
) LANGUAGE plpgsql AS $$
DECLARE
  id text := 'credit:' || encode(of_hash, 'hex');
  asset text := 'asset:node:' || of_node;
BEGIN
  SELECT i.account_id, i.purpose INTO account, what FROM invoice i WHERE i.payment_hash = of_hash
  UNION ALL SELECT to_account, what WHERE to_account IS NOT NULL LIMIT 1;
  IF account IS NULL THEN
    SELECT t.credit_account_id INTO account FROM transfer t WHERE t.transfer_id = id;
    IF account IS NULL THEN
      outcome := 'foreign';
      PERFORM advance_v1(of_node, added, settled);
      RETURN;
    END IF;
  END IF;
  PERFORM open_account_v1(account, 'customer', now_ms);
  PERFORM FROM account a WHERE a.account_id = account FOR NO KEY UPDATE;
  PERFORM FROM transfer t WHERE t.transfer_id = id;
  IF FOUND THEN
    outcome := 'replayed';
    SELECT t.credit_account_id INTO account FROM transfer t WHERE t.transfer_id = id;
  ELSE
    IF amount NOT BETWEEN 1 AND 2100000000000000000 THEN
      RAISE EXCEPTION '% reports % msat for %', of_node, amount, encode(of_hash, 'hex')
      USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM open_account_v1(asset, 'asset', now_ms);
    INSERT INTO invoice AS i (payment_hash, account_id, node, purpose, payment_request, amount_msat,
      amount_paid_msat, state, created_at_ms, expires_at_ms, settled_at_ms)
    VALUES (of_hash, account, of_node, what, '', amount, amount, 'settled', paid_at_ms, paid_at_ms, paid_at_ms)
    ON CONFLICT (payment_hash) DO UPDATE SET state = 'settled', amount_paid_msat = excluded.amount_paid_msat,
      settled_at_ms = excluded.settled_at_ms, next_lookup_ms = NULL
    WHERE i.state <> 'settled' AND i.account_id = excluded.account_id;
    IF NOT FOUND THEN
      -- Another transaction gave the hash to another account meanwhile: look again.
      RAISE EXCEPTION 'the payment was credited meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;
    INSERT INTO transfer (transfer_id, kind, debit_account_id, credit_account_id, amount_msat, at_ms, detail)
    VALUES (id, 'credit', asset, account, amount, now_ms, what);
    UPDATE account a SET posted_msat = a.posted_msat + amount
    WHERE a.account_id = account AND a.kind = 'customer';
    ASSERT FOUND, 'a payment met no account';
    PERFORM pg_notify('arkgate_funded', encode(of_hash, 'hex'));
    outcome := 'applied';
  END IF;
  SELECT a.posted_msat, a.held_msat INTO posted, held FROM account a WHERE a.account_id = account;
  PERFORM advance_v1(of_node, added, settled);
END
$$;

CREATE FUNCTION add_invoice_v1(
  now_ms bigint, of_hash bytea, of_account text, of_node text, what text, request text, amount bigint,
  made_at_ms bigint, until_ms bigint
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  owner record;
BEGIN
  PERFORM FROM account WHERE account_id = of_account AND kind = 'customer' FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN 'no_account';
  END IF;
  INSERT INTO invoice AS i (payment_hash, account_id, node, purpose, payment_request, amount_msat,
    amount_paid_msat, state, created_at_ms, expires_at_ms, next_lookup_ms)
  VALUES (of_hash, of_account, of_node, what, request, amount, 0, 'open', made_at_ms, until_ms, now_ms)
  ON CONFLICT (payment_hash) DO UPDATE SET payment_request = excluded.payment_request,
    amount_msat = excluded.amount_msat, created_at_ms = excluded.created_at_ms,
    expires_at_ms = excluded.expires_at_ms
  WHERE i.payment_request = '' AND i.account_id = excluded.account_id AND i.purpose = excluded.purpose;
  SELECT account_id, purpose INTO owner FROM invoice WHERE payment_hash = of_hash;
  RETURN CASE WHEN owner.account_id = of_account AND owner.purpose = what THEN 'added' ELSE 'other_purpose' END;
END
$$;

CREATE FUNCTION open_session_v1(
  now_ms bigint, of_session text, of_account text, digest bytea, version bigint, of_hash bytea, of_node text,
  what text, request text, amount bigint, made_at_ms bigint, until_ms bigint
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  added text;
  opened record;
BEGIN
  PERFORM open_account_v1(of_account, 'customer', now_ms);
  PERFORM give_token_v1(of_account, digest, version);
  added := add_invoice_v1(now_ms, of_hash, of_account, of_node, what, request, amount, made_at_ms, until_ms);
  IF added <> 'added' THEN
    RAISE EXCEPTION 'payment hash % was given out for something else', encode(of_hash, 'hex')
    USING ERRCODE = 'invalid_parameter_value';
  END IF;
  INSERT INTO session (session_id, account_id, payment_hash) VALUES (of_session, of_account, of_hash)
  ON CONFLICT (session_id) DO NOTHING;
  SELECT account_id, payment_hash INTO opened FROM session WHERE session_id = of_session;
  IF opened.account_id <> of_account OR opened.payment_hash <> of_hash THEN
    RAISE EXCEPTION 'session % was opened before with another invoice', of_session
    USING ERRCODE = 'invalid_parameter_value';
  END IF;
  RETURN 'opened';
END
$$;

CREATE FUNCTION give_token_v1(of_account text, digest bytea, version bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  given bigint;
BEGIN
  UPDATE account SET token_digest = digest, token_key_version = version
  WHERE account_id = of_account AND kind = 'customer' AND token_digest IS NULL;
  SELECT token_key_version INTO given FROM account WHERE account_id = of_account AND kind = 'customer';
  RETURN given;
END
$$;

-- What `reserve` would say of a request that was made before; no row: it is a new one.
CREATE FUNCTION replay_v1(
  now_ms bigint, of_account text, of_service text, price bigint, most bigint, of_request bytea, of_key bytea
) RETURNS TABLE (
  outcome text, posted bigint, held bigint, used bigint, answered_call text, request_id text, status bigint,
  content_type text, body bytea, cost bigint, expires_at_ms bigint
) LANGUAGE plpgsql STABLE AS $$
BEGIN
  SELECT posted_msat, held_msat INTO posted, held FROM account
  WHERE account_id = of_account AND kind = 'customer';
  posted := coalesce(posted, 0);
  held := coalesce(held, 0);
  used := used_v1(of_account, of_service, now_ms / 86400000);
  SELECT r.outcome, r.answered_call INTO outcome, answered_call FROM repeated_v1(
    now_ms, of_account, of_service, of_request, of_key,
    posted - held < price OR (most IS NOT NULL AND used >= most)) r;
  IF outcome IS NULL THEN
    RETURN;
  END IF;
  IF answered_call IS NOT NULL THEN
    SELECT h.request_id, a.status, a.content_type, a.body, h.cost_msat, a.expires_at_ms
    INTO request_id, status, content_type, body, cost, expires_at_ms
    FROM hold h JOIN answer a ON a.call_id = h.call_id WHERE h.call_id = answered_call;
  END IF;
  RETURN NEXT;
END
$$;
