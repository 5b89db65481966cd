"""A server as a child process: newline-framed messages over its stdin and stdout.

Owns: one child at a time: its start, its lines, its stderr (always drained, into the log), and its stop:
stdin closed, wait, SIGTERM, wait, SIGKILL, each on the whole process group (stdio.mdx Shutdown; B5).
Must never: treat stderr or a line that is not JSON as failure of the protocol (B3, B4).
"""

from __future__ import annotations

from enum import Enum

from mcpgate_proto.config import ServerConfig
from mcpgate_proto.effects import Peer, TlsFacts
from mcpgate_proto.hub import Hub
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream.channel import ChannelLink
from mcpgate_proto.upstream.link import LinkOwner
from mcpgate_proto.wire import jsonrpc, lines

__all__ = ["ChildLink"]


EXIT_WAIT_S = 0.5


class Stage(Enum):
    NEW = "new"
    STARTING = "starting"
    UP = "up"
    ENDING = "ending"  # one of exit and end of output has come, the other is about to
    STOPPING = "stopping"
    GONE = "gone"


class ChildLink(ChannelLink):
    """One child of one server. When it ends, the owner makes a new one."""

    def __init__(self, hub: Hub, config: ServerConfig, owner: LinkOwner) -> None:
        super().__init__()
        self._hub = hub
        self._config = config
        self.owner = owner
        self.stage = Stage.NEW
        self._lines = lines.LineDecoder(hub.limits.message_bytes)
        self._stderr = lines.LineDecoder(hub.limits.stderr_line_bytes)
        self._garbage = 0
        self._spoke = False
        self._status: int | None = None
        self._step: Timer | None = None

    # -- from the owner

    def start(self) -> None:
        config = self._config
        self.stage = Stage.STARTING
        argv = (config.command, *config.args)
        self._conn = self._hub.spawn(self, argv, config.env, config.cwd, config.pin, config.process_limits)

    def notify(self, message: bytes) -> None:
        if self._conn is not None and self.stage is Stage.UP:
            self._conn.write([message, b"\n"])

    def stop(self) -> None:
        if self.stage in (Stage.STOPPING, Stage.GONE) or self._conn is None:
            return
        up = self.stage in (Stage.UP, Stage.ENDING)
        if self._step is not None:
            self._step.cancel()
        self.stage = Stage.STOPPING
        self._conn.release("clients are slow")
        if not up:
            return  # `connected` will see the stage
        self._conn.shutdown_write()
        self._step = self._hub.after(self._hub.limits.stop_wait_s, "child stop", self._terminate)

    def _terminate(self) -> None:
        if self._conn is not None:
            self._hub.emit("notice", "child_terminate", server=self._config.name)
            self._conn.signal("TERMINATE")
            self._step = self._hub.after(self._hub.limits.term_wait_s, "child kill", self._kill)

    def _kill(self) -> None:
        self._step = None
        if self._conn is not None:
            self._hub.emit("warning", "child_kill", server=self._config.name)
            self._conn.signal("KILL")
            self._conn.abort()

    # -- from the hub

    def connected(self, peer: Peer, tls: TlsFacts | None) -> None:
        self.pid = peer.pid
        if self.stage is Stage.STOPPING:
            self.stage = Stage.UP
            self.stop()
            return
        self.stage = Stage.UP
        self._hub.emit("info", "child_started", server=self._config.name, pid=peer.pid)
        self.owner.link_up()

    def connect_failed(self, reason: str) -> None:
        self._gone(f"cannot start: {reason}")

    def received(self, data: bytes) -> None:
        for line in self._lines.receive(data):
            if isinstance(line, lines.TooLong):
                self._hub.count("upstream_messages_too_long")
                self._hub.emit("error", "server_line_too_long", server=self._config.name, size=line.size)
                self._fail("it sent a message larger than limits.message_bytes")
                return
            self._line(line)

    def _line(self, line: bytes) -> None:
        for message in jsonrpc.decode(line, self._hub.limits, allow_batch=True):
            if isinstance(message, jsonrpc.Malformed):
                broken = self._broken_answer(message, line)
                if broken is None:
                    self._not_a_message(line)
                    continue
                message = broken
            self._spoke = True
            if isinstance(message, jsonrpc.Result | jsonrpc.ErrorReply) and isinstance(message.id, int):
                self._open.done(message.id)
            if self.stage in (Stage.UP, Stage.ENDING):
                self.owner.link_message(message, None)

    def _broken_answer(self, message: jsonrpc.Malformed, line: bytes) -> jsonrpc.ErrorReply | None:
        """An answer that is none, but to one of our requests: its caller need not wait any longer."""
        if message.id not in self._open or b'"method"' in line:
            return None
        return jsonrpc.ErrorReply(message.id, jsonrpc.INVALID_REQUEST, "the server's answer is malformed")

    def _not_a_message(self, line: bytes) -> None:
        """Banners and stray prints are logged and skipped, never forwarded (B3)."""
        self._garbage += 1
        self._hub.count("upstream_garbage_lines")
        if self._garbage <= 5:
            text = line[:200].decode("utf-8", "replace")
            self._hub.emit("warning", "server_line_not_json", server=self._config.name, line=text)
        if not self._spoke and self._garbage > self._hub.limits.garbage_lines:
            self._fail("it writes something other than MCP to stdout")

    def _fail(self, reason: str) -> None:
        if self._conn is not None and self.stage is Stage.UP:
            self._conn.signal("KILL")
            self._conn.abort()
            self._gone(reason)

    def received_eof(self) -> None:
        """Stdout closed: it can answer nothing more, dead or alive (threats.md 5, half-closed)."""
        for line in self._lines.receive_eof():
            if isinstance(line, bytes):
                self._line(line)
        if self.stage is Stage.ENDING:
            self._gone(self._ended())
        elif self.stage is Stage.UP:
            # The exit status is about to come, most likely, and makes the better reason.
            self._end_soon("it closed its stdout")

    def _end_soon(self, reason: str) -> None:
        self.stage = Stage.ENDING
        self._step = self._hub.after(EXIT_WAIT_S, "child end", lambda: self._lingering(reason))

    def _lingering(self, reason: str) -> None:
        """Only one of the two came: the other end is not waited for any longer."""
        self._step = None
        self._gone(reason)
        if self._conn is not None and self._status is None:
            self._conn.shutdown_write()
            self._step = self._hub.after(self._hub.limits.stop_wait_s, "child stop", self._terminate)

    def _ended(self) -> str:
        status = self._status
        if status is None:
            return "it closed its stdout"
        return f"it ended (exit code {status})" if status >= 0 else f"it ended (signal {-status})"

    def received_stderr(self, data: bytes) -> None:
        for line in self._stderr.receive(data):
            text = "(a long line)" if isinstance(line, lines.TooLong) else line.decode("utf-8", "replace")
            self.last_stderr.append(text)
            if len(self.last_stderr) > self._hub.limits.stderr_lines_kept:
                del self.last_stderr[0]
            self._hub.emit("info", "server_stderr", server=self._config.name, line=text)

    def exited(self, status: int) -> None:
        self._status = status
        self._hub.emit("info", "child_exited", server=self._config.name, status=status)
        # Descendants of a launcher (npx, uvx) may live on in the group: they go with it.
        if self._conn is not None:
            self._conn.signal("KILL")
        if self.stage is Stage.UP:
            # What it wrote last may still be in the pipe: the answer before an exit is not lost.
            self._end_soon(self._ended())
        elif self.stage is Stage.ENDING:
            self._gone(self._ended())

    def pressed(self, high: bool) -> None:
        self.owner.link_pressed(high)

    def closed(self, reason: str) -> None:
        self._conn = None
        if self._step is not None:
            self._step.cancel()
            self._step = None
        self._gone(reason)

    def _gone(self, reason: str) -> None:
        """Tell the owner once. A child that still lives after this goes on being stopped."""
        if self.stage is Stage.ENDING and self._step is not None:
            self._step.cancel()
            self._step = None
        told, self.stage = self.stage, Stage.GONE
        if told is not Stage.GONE:
            self._open.clear()
            self.owner.link_down(reason)
