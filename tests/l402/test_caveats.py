def test_a_credential_for_a_service_that_was_renamed_is_still_known_to_be_narrowed() -> None:
    caveats = [b"services=old_name:0", b"old_name_valid_until=2000000000", b"old_name_valid_until=1"]

    terms = read_terms(caveats, payment_hash=b"\0" * 32, account_id="0" * 32, known_services={"new_name"})

    assert terms.attenuated
    assert terms.expired("old_name", 2.0)
