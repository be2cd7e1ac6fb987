-- A transfer may be a fee. PostgreSQL reads all transfers once for it; who writes meanwhile waits.
ALTER TABLE transfer DROP CONSTRAINT transfer_kind;
ALTER TABLE transfer ADD CONSTRAINT transfer_kind
  CHECK (kind IN ('credit', 'charge', 'fee') AND (kind <> 'fee' OR substr(transfer_id, 1, 4) = 'fee:'));

-- Credits a payment as `fund_v1` does, and books what the node kept of it as the operator's expense.
CREATE FUNCTION fund_v2(
  now_ms bigint, of_node text, of_hash bytea, amount bigint, paid_at_ms bigint, to_account text, what text,
  added bigint, settled bigint, fee bigint,
  OUT outcome text, OUT account text, OUT posted bigint, OUT held bigint
) LANGUAGE plpgsql AS $$
BEGIN
  SELECT f.outcome, f.account, f.posted, f.held INTO outcome, account, posted, held
  FROM fund_v1(now_ms, of_node, of_hash, amount, paid_at_ms, to_account, what, added, settled) f;
  IF outcome <> 'applied' THEN
    RETURN;
  END IF;
  IF fee NOT BETWEEN 0 AND amount THEN
    RAISE EXCEPTION '% kept % of % msat for %', of_node, fee, amount, encode(of_hash, 'hex')
    USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF fee > 0 THEN
    INSERT INTO transfer (transfer_id, kind, debit_account_id, credit_account_id, amount_msat, at_ms, detail)
    VALUES ('fee:' || encode(of_hash, 'hex'), 'fee', 'expense:fees', 'asset:node:' || of_node, fee, now_ms,
      of_node);
  END IF;
END
$$;
