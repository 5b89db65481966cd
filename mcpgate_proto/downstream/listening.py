"""One `subscriptions/listen` of a modern client.

Owns: its acknowledgement (first, and only of what is honoured), the changes that follow, its result at
the end, and the resources it watches.
Must never: send anything but changes on its stream (G17); keep a watch after the stream has ended.
"""

from __future__ import annotations

from mcpgate_proto.downstream.live import CHANGES, COMPLETE, Live
from mcpgate_proto.downstream.outlet import Outlet
from mcpgate_proto.downstream.tasks import TaskWatch
from mcpgate_proto.mcp import meta
from mcpgate_proto.mcp.codes import Fault
from mcpgate_proto.relay.exchange import Client, Members, Route
from mcpgate_proto.relay.relay import Relay
from mcpgate_proto.relay.subscriptions import Interest
from mcpgate_proto.wire import jsonrpc, values

__all__ = ["Listening"]


class Listening(Live):
    """One `subscriptions/listen`: its acknowledgement first, then changes, its result at the end."""

    def __init__(
        self,
        relay: Relay,
        table: dict[Listening, None],
        request: jsonrpc.Request,
        outlet: Outlet,
        client: Client,
        kinds: tuple[str, ...],
    ) -> None:
        self._relay = relay
        self._table = table
        self._id = request.id  # of the request itself nothing is kept: it may be large, the stream long
        self._outlet = outlet
        self._client = client
        # G15: the id of the listen request on this hop, with its JSON type; 0 and "" are fine.
        self._meta = jsonrpc.encode_object({meta.SUBSCRIPTION_ID: jsonrpc.to_raw(request.id)})
        self._interest = Interest(client, kinds, self._list_changed, self._updated)
        self._left = 0
        self._acknowledged = False
        self._done = False
        self._slow = False
        self._tasks: list[TaskWatch] = []
        # What a slow client has missed of its tasks: the last state of each.
        self._missed: dict[str, Members] = {}
        table[self] = None

    def watch(self, uris: list[str], tasks: dict[tuple[str, str], dict[str, str]]) -> None:
        """Subscribe to each resource where its owner can, and to tasks (server and session -> its id -> the
        client's form); the acknowledgement lists those that worked."""
        uris = list(dict.fromkeys(uris))
        self._left = len(uris) + len(tasks)
        if not self._left:
            self._acknowledge()
        for place, ids in tasks.items():
            watch = TaskWatch(self._relay, self._client, place, ids, self._task_changed, self._settled)
            self._tasks.append(watch)
        for watch in list(self._tasks):
            watch.start()
        for uri in uris:
            routed = lambda found, uri=uri: self._routed(uri, found)  # noqa: E731
            self._relay.router.resolve_uri(uri, self._client, routed)

    def _routed(self, uri: str, found: Route | Fault) -> None:
        if isinstance(found, Fault):
            self._settled()
            return
        own = values.text_of(found.params, "uri") or uri
        server = self._relay.servers.get(found.server)
        if server is None:
            self._settled()
            return

        def watched(fault: Fault | None) -> None:
            if fault is None:
                # The rules may have changed while the server was asked.
                if self._done or not self._relay.router.lets_uri(self._client, found.server, own):
                    server.unwatch(self._client, own)
                else:
                    self._interest.uris[uri] = (found.server, own)
            self._settled()

        server.watch(self._client, own, watched)

    def _settled(self) -> None:
        self._left -= 1
        if not self._left and not self._done:
            self._acknowledge()

    def _acknowledge(self) -> None:
        """G16: only what is honoured; no `false`."""
        self._acknowledged = True
        self._relay.interests.add(self._interest)
        agreed: dict[str, object] = {
            name: True for name, kind in CHANGES.items() if kind in self._interest.kinds
        }
        if self._interest.uris:
            agreed["resourceSubscriptions"] = list(self._interest.uris)
        honoured = [id for watch in self._tasks for id in watch.honoured]
        if honoured:
            agreed["taskIds"] = honoured
        self._send("notifications/subscriptions/acknowledged", {"notifications": jsonrpc.to_raw(agreed)})
        self._tell_missed()

    def _send(self, method: str, params: Members) -> None:
        if not self._done:
            self._outlet.notify(jsonrpc.encode_notification(method, {**params, "_meta": self._meta}))

    def _list_changed(self, kind: str) -> None:
        if not self._slow:
            self._send(f"notifications/{kind}/list_changed", {})

    def _updated(self, params: Members) -> None:
        if not self._slow:
            self._send("notifications/resources/updated", values.without(params, "_meta"))

    def _task_changed(self, id: str, params: Members) -> None:
        if self._slow or not self._acknowledged:
            self._missed[id] = {name: jsonrpc.detach(raw) for name, raw in params.items()}
        else:
            self._send("notifications/tasks", params)

    def _tell_missed(self) -> None:
        missed, self._missed = self._missed, {}
        for params in missed.values():
            self._send("notifications/tasks", params)

    def throttle(self, on: bool) -> None:
        """A client that does not read misses changes; when it reads again it looks afresh."""
        was, self._slow = self._slow, on
        if was and not on:
            for kind in self._interest.kinds:
                self._list_changed(kind)
            self._tell_missed()

    def _close(self) -> None:
        self._done = True
        self._table.pop(self, None)
        self._relay.interests.remove(self._interest)
        for watch in self._tasks:
            watch.stop()
        held, self._interest.uris = self._interest.uris, {}
        for server, own in held.values():
            self._relay.unwatch(server, self._client, own)

    def cancel(self, reason: str) -> None:
        if not self._done:
            self._close()
            self._outlet.finish(None)

    def end(self) -> None:
        if not self._done:
            self._close()
            told: Members = {"resultType": COMPLETE, "_meta": self._meta}
            self._outlet.finish(jsonrpc.encode_result(self._id, told))
            if self._outlet.shares_channel:
                # G19: on HTTP the end of the stream says it; on a channel both forms are sent.
                over = {"requestId": jsonrpc.to_raw(self._id)}
                self._outlet.notify(jsonrpc.encode_notification("notifications/cancelled", over))
