"""The published schemas as an oracle: does a message hold what the schema of a revision asks of it (L0.5)?

Owns: looking up the definition of a request, a notification, a result or an error, and the words of the
complaint. The schemas are read from the folder that MCPGATE_SCHEMAS names, by default `../shared/schema` next
to the repository; without them every test that calls in here is skipped. Must never: import the gateway.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import best_match

__all__ = ["Schemas", "check", "check_message", "validator"]

_SIDES = {"client": "server", "server": "client"}
# A25; any other kind of result belongs to an extension that has to be named in `extensions`.
_KINDS = ("complete", "input_required")
# The methods that may be answered with `input_required` (26 mrtr.mdx, Supported Requests).
_ROUNDS = ("tools/call", "prompts/get", "resources/read")


def folder() -> Path:
    """Where the schemas are, each in a folder named after its revision."""
    told = os.environ.get("MCPGATE_SCHEMAS")
    return Path(told) if told else Path(__file__).resolve().parent.parent.parent / "shared" / "schema"


@cache
def missing() -> str | None:
    """Why the schemas cannot be used; None if they are all there."""
    found = [path for path in folder().glob("20??-??-??/schema.json") if path.is_file()]
    if found:
        return None
    return f"no schemas in {folder()}: set MCPGATE_SCHEMAS to the folder of the schemas"


class Schemas:
    """The definitions of one revision."""

    def __init__(self, revision: str, schema: dict[str, Any]) -> None:
        self.revision = revision
        self._keyword = "$defs" if "$defs" in schema else "definitions"
        self.definitions: dict[str, Any] = schema[self._keyword]
        self._kind = Draft7Validator if "draft-07" in schema["$schema"] else Draft202012Validator
        self._validators: dict[str, Any] = {}

    def check(self, definition: str, obj: Any) -> None:
        """Raises AssertionError, which names the place, if `obj` is no `definition`."""
        found = self._validators.get(definition)
        if found is None:
            assert definition in self.definitions, f"{self.revision} defines no {definition}"
            root = {"$ref": f"#/{self._keyword}/{definition}", self._keyword: self.definitions}
            found = self._validators[definition] = self._kind(root)
        error = best_match(found.iter_errors(obj))
        if error is not None:
            raise AssertionError(f"{self.revision} {definition} at {error.json_path}: {error.message}")

    def first(self, *names: str) -> str:
        """The first of the names that this revision defines: some were renamed."""
        return next(name for name in names if name in self.definitions)

    def of_method(self, union: str, method: str) -> str | None:
        """The member of a union such as `ClientRequest` that is about `method`; None if there is none."""
        told = self.definitions.get(union, {})
        names = [part["$ref"].rpartition("/")[2] for part in told.get("anyOf", ())] or [union]
        for name in names:
            named = self.definitions.get(name, {}).get("properties", {}).get("method", {})
            if named.get("const") == method:
                return name
        return None

    def of_result(self, asker: str, method: str) -> str | None:
        """The definition of the result of `method` as `asker` may ask for it; None if it may not."""
        request = self.of_method(f"{asker.title()}Request", method)
        if request is None:
            # Modern servers ask inside results, and get bare answers (I1); nothing of the kind is a message.
            return None
        name = request.removesuffix("Request") + "Result"
        return name if name in self.definitions else "EmptyResult"


@cache
def _load(path: Path, revision: str) -> Schemas:
    schemas = Schemas(revision, json.loads(path.read_text("utf-8")))
    # A form may have fields of type number; the generated schemas let only integers be answered, where the
    # schema.ts that they are made from says `number`.
    content = schemas.definitions.get("ElicitResult", {}).get("properties", {}).get("content", {})
    for kind in [
        content.get("additionalProperties", {}),
        *content.get("additionalProperties", {}).get("anyOf", ()),
    ]:
        if "integer" in kind.get("type", ()):
            kind["type"] = ["string", "number", "boolean"]
    return schemas


def validator(revision: str) -> Schemas:
    """The schemas of `revision`. Skips the test that asks if they are not on this machine."""
    path = folder() / revision / "schema.json"
    if not path.is_file():
        pytest.skip(f"no schema of {revision} at {path}: set MCPGATE_SCHEMAS to the folder of the schemas")
    return _load(path, revision)


def check(revision: str, definition: str, obj: Any) -> None:
    """Raises AssertionError, which names the place, if `obj` is no `definition` of `revision`."""
    validator(revision).check(definition, obj)


def check_message(
    revision: str,
    direction: str,
    message: dict[str, Any],
    *,
    request_method: str | None = None,
    extensions: Collection[str] = (),
) -> None:
    """Raises AssertionError, which names the place, if `direction` ("client" or "server") may not send this.

    `request_method` is the method of the request that a result answers; without it only the frame of the
    result is looked at. `extensions` are methods and result types beyond the schema, such as "task".
    """
    assert direction in _SIDES, f"a message is from the client or the server, not from {direction}"
    schemas = validator(revision)
    assert isinstance(message, dict), f"{revision}: a message is an object: {message!r:.200}"
    if "method" in message:
        _check_call(schemas, direction, message, extensions)
    elif "error" in message:
        schemas.check(schemas.first("JSONRPCErrorResponse", "JSONRPCError"), message)
    else:
        _check_result(schemas, direction, message, request_method, extensions)


def _check_call(
    schemas: Schemas, direction: str, message: dict[str, Any], extensions: Collection[str]
) -> None:
    kind = "Request" if "id" in message else "Notification"
    schemas.check(f"JSONRPC{kind}", message)
    method = message["method"]
    name = schemas.of_method(f"{direction.title()}{kind}", method)
    if name is not None:
        schemas.check(name, message)
        return
    told = f"{schemas.revision}: no {kind.lower()} {method} from the {direction}"
    assert method in extensions, told


def _check_result(
    schemas: Schemas,
    direction: str,
    message: dict[str, Any],
    method: str | None,
    extensions: Collection[str],
) -> None:
    schemas.check(schemas.first("JSONRPCResultResponse", "JSONRPCResponse"), message)
    result = message["result"]
    schemas.check("Result", result)
    modern = "resultType" in schemas.definitions["Result"].get("properties", {})
    kind = result["resultType"] if modern else "complete"
    assert kind in _KINDS or kind in extensions, f"{schemas.revision}: resultType {kind} at $.result"
    if method is None or method in extensions or kind not in _KINDS:
        return
    name = schemas.of_result(_SIDES[direction], method)
    assert name is not None, f"{schemas.revision}: no result of {method} from the {direction}"
    if kind == "input_required":
        assert method in _ROUNDS, f"{schemas.revision}: input_required for {method} at $.result.resultType"
        asked = "inputRequests" in result or "requestState" in result
        assert asked, f"{schemas.revision}: input_required without inputRequests or requestState at $.result"
        name = "InputRequiredResult"
    elif "task" in result and "content" not in result and "CreateTaskResult" in schemas.definitions:
        name = "CreateTaskResult"
    _check_within(schemas, name, result)


def _check_within(schemas: Schemas, name: str, result: Any) -> None:
    try:
        schemas.check(name, result)
    except AssertionError as error:
        raise AssertionError(str(error).replace(" at $", " at $.result", 1)) from None
