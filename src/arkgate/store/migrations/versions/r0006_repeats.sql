-- As in revision 1, but a call under way comes first: who repeats its request must not be given the answer of
-- an older call while this one is charged.
CREATE OR REPLACE FUNCTION repeated_v1(
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
  IF EXISTS (
    -- Open holds are few and have an index of their own; an account's holds may be millions.
    WITH under_way AS MATERIALIZED (SELECT account_id, service, request_hash FROM hold WHERE state = 'open')
    SELECT FROM under_way
    WHERE account_id = of_account AND service = of_service AND request_hash = of_request
  ) THEN
    outcome := 'in_flight';
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
  END IF;
END
$$;
