"""The OpenAPI description is true: requests made from it, good and bad, are answered as it says."""

import asyncio
import sys
from pathlib import Path

from openapi_spec_validator import validate
from tests.backend.backend_server import always, http, serving
from tests.stage import Stage, run, staged
from tests.web.test_services import service

ROOMY = (
    "sessions_per_hour_and_client = 100000\nsessions_per_hour = 100000\n"
    "challenges_per_minute_and_client = 100000\nchallenges_per_minute = 100000\n"
    "calls_per_minute_and_account = 100000\ncalls_per_minute_and_client = 100000"
)
# Left out: what a schema allows may still be refused (an empty question, a used key), a priced route without
# a credential is 402 where the tool wants 401, and methods that are not sold are answered as probes.
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance"
)


async def fuzz(stage: Stage, header: str | None, directory: Path) -> str:
    """What schemathesis says of the running gateway; empty where it found nothing."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{stage.url}/openapi.json",
        "--checks",
        f"{CHECKS},negative_data_rejection" if header else CHECKS,  # without one a bad body is a probe
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        "12",
        "--seed",
        "1",
        "--workers",
        "1",
        "--suppress-health-check",
        "all",
        "--generation-database",
        "none",
        "--warnings",
        "off",
        "--continue-on-failure",
        *(["--header", f"Authorization: {header}"] if header else []),
        # A watch lasts until its session is paid; there is no end that a client could wait for.
        "--exclude-path",
        "/v1/sessions/{session_id}/events",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=directory,
    )
    said, _ = await process.communicate()
    return "" if process.returncode == 0 else said.decode()


def test_it_is_valid_openapi_and_small_enough_for_those_who_read_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with staged(tmp_path, extra=service(9)) as stage:
            answer = await stage.http.get("/openapi.json")
            validate(answer.json())
            assert len(answer.content) < 64 * 1024

    run(main())


def test_nothing_is_answered_that_it_does_not_describe(tmp_path: Path) -> None:
    async def main() -> None:
        weather = always(http(b'{"degrees": 21}', headers=("Content-Type: application/json",)))
        async with serving(weather) as server:
            extra = service(server.port)
            extra = {**extra, "[limits]": ROOMY}
            async with staged(tmp_path, extra=extra) as stage:
                token = await stage.fund_token(100_000)
                said = await fuzz(stage, token["Authorization"], tmp_path)
                assert not said, said
                said = await fuzz(stage, None, tmp_path)
                assert not said, said
                assert await stage.verify() == []

    run(asyncio.wait_for(main(), 110))
