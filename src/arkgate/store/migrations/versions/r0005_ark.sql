-- Ark addresses and the coins that come in at them. Locks are taken in the order of the first revision:
-- account rows, then an address, then its coins.

-- Records an address of an account, due for a look-up at once.
CREATE FUNCTION add_address_v1(
  now_ms bigint, of_address text, of_account text, of_node text, what text, amount bigint, made_at_ms bigint,
  until_ms bigint
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  owner record;
BEGIN
  PERFORM FROM account WHERE account_id = of_account AND kind = 'customer' FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN 'no_account';
  END IF;
  INSERT INTO ark_address (address, account_id, node, purpose, amount_msat, created_at_ms, expires_at_ms,
    next_lookup_ms)
  VALUES (of_address, of_account, of_node, what, amount, made_at_ms, until_ms, now_ms)
  ON CONFLICT (address) DO NOTHING;
  SELECT account_id, purpose INTO owner FROM ark_address WHERE address = of_address;
  RETURN CASE WHEN owner.account_id = of_account AND owner.purpose = what THEN 'added' ELSE 'other_purpose' END;
END
$$;

-- Opens the account with its token, the invoice and the address that are there, and the session.
CREATE FUNCTION open_session_v2(
  now_ms bigint, of_session text, of_account text, digest bytea, version bigint,
  of_hash bytea, invoice_node text, what text, request text, invoice_amount bigint, invoice_made_at_ms bigint,
  invoice_until_ms bigint,
  of_address text, address_node text, address_amount bigint, address_made_at_ms bigint,
  address_until_ms bigint
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  opened record;
BEGIN
  PERFORM open_account_v1(of_account, 'customer', now_ms);
  PERFORM give_token_v1(of_account, digest, version);
  IF of_hash IS NOT NULL AND add_invoice_v1(now_ms, of_hash, of_account, invoice_node, what, request,
    invoice_amount, invoice_made_at_ms, invoice_until_ms) <> 'added' THEN
    RAISE EXCEPTION 'payment hash % was given out for something else', encode(of_hash, 'hex')
    USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF of_address IS NOT NULL AND add_address_v1(now_ms, of_address, of_account, address_node, what,
    address_amount, address_made_at_ms, address_until_ms) <> 'added' THEN
    RAISE EXCEPTION 'address % was given out for something else', of_address
    USING ERRCODE = 'invalid_parameter_value';
  END IF;
  INSERT INTO session (session_id, account_id, payment_hash, ark_address)
  VALUES (of_session, of_account, of_hash, of_address) ON CONFLICT (session_id) DO NOTHING;
  SELECT account_id, payment_hash, ark_address INTO opened FROM session WHERE session_id = of_session;
  IF (opened.account_id, opened.payment_hash, opened.ark_address)
    IS DISTINCT FROM (of_account, of_hash, of_address) THEN
    RAISE EXCEPTION 'session % was opened before with another invoice or address', of_session
    USING ERRCODE = 'invalid_parameter_value';
  END IF;
  RETURN 'opened';
END
$$;

-- Credits a coin once, or notes that it waits: what came in at one address is credited at once up to
-- `instant`, and what is above that when it is final.
CREATE FUNCTION fund_ark_v1(
  now_ms bigint, of_node text, of_outpoint text, of_address text, amount bigint, came_at_ms bigint,
  final boolean, instant bigint, added bigint, settled bigint,
  OUT outcome text, OUT account text, OUT posted bigint, OUT held bigint
) LANGUAGE plpgsql AS $$
DECLARE
  id text := 'credit:' || of_outpoint;
  asset text := 'asset:node:' || of_node;
  what text;
BEGIN
  SELECT a.account_id, a.purpose INTO account, what FROM ark_address a WHERE a.address = of_address;
  IF NOT FOUND THEN
    outcome := 'foreign';
    PERFORM advance_v1(of_node, added, settled);
    RETURN;
  END IF;
  PERFORM FROM account a WHERE a.account_id = account FOR NO KEY UPDATE;
  IF EXISTS (SELECT FROM transfer t WHERE t.transfer_id = id) THEN
    outcome := 'replayed';
    SELECT t.credit_account_id INTO account FROM transfer t WHERE t.transfer_id = id;
  ELSE
    IF amount NOT BETWEEN 1 AND 2100000000000000000 THEN
      RAISE EXCEPTION '% reports % msat for %', of_node, amount, of_outpoint
      USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO ark_payment (outpoint, address, amount_msat, state, received_at_ms)
    VALUES (of_outpoint, of_address, amount, 'waiting', came_at_ms) ON CONFLICT (outpoint) DO NOTHING;
    PERFORM FROM ark_payment p
    WHERE p.outpoint = of_outpoint AND p.address = of_address AND p.amount_msat = amount;
    IF NOT FOUND THEN
      RAISE EXCEPTION '% reported another amount or address for %', of_node, of_outpoint
      USING ERRCODE = 'invalid_parameter_value';
    END IF;
    outcome := 'waiting';
    IF final OR amount + (SELECT coalesce(sum(p.amount_msat), 0) FROM ark_payment p
      WHERE p.address = of_address AND p.state = 'credited') <= instant THEN
      PERFORM open_account_v1(asset, 'asset', now_ms);
      UPDATE ark_payment SET state = 'credited', credited_at_ms = now_ms
      WHERE outpoint = of_outpoint AND state = 'waiting';
      ASSERT FOUND, 'a coin that was not credited was waiting';
      INSERT INTO transfer (transfer_id, kind, debit_account_id, credit_account_id, amount_msat, at_ms, detail)
      VALUES (id, 'credit', asset, account, amount, now_ms, what);
      UPDATE account a SET posted_msat = a.posted_msat + amount
      WHERE a.account_id = account AND a.kind = 'customer';
      ASSERT FOUND, 'a payment met no account';
      outcome := 'applied';
    END IF;
  END IF;
  SELECT a.posted_msat, a.held_msat INTO posted, held FROM account a WHERE a.account_id = account;
  PERFORM advance_v1(of_node, added, settled);
END
$$;
