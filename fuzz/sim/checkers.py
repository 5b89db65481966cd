"""Judges that stand beside the gateway and look at its effects and at what its peers saw.

Owns: the invariants I1 to I6 and what follows from them; each raises `Violation` with its name.
Must never: look inside the gateway other than through `snapshot`.

    I1  every request gets exactly one answer, or its connection closes     (model clients, `finish`)
    I2  an answer, and a question, carry the nonce of who asked             (model clients)
    I3  no two live upstream ids are equal on one channel                   (model servers)
    I4  at rest nothing is held                                             (`at_rest`)
    I5  unsent bytes of a connection stay below its bound                   (each effect)
    I6  after a cancellation nothing of the call is sent, either way        (each effect, model clients)
    --  one channel to a server serves one principal                        (model servers' record)
"""

from __future__ import annotations

from fuzz.sim.clients import Call
from fuzz.sim.scene import Scene
from fuzz.sim.world import Violation
from mcpgate_proto.effects import Effect, Write

__all__ = ["Checkers"]

EVERY = 64  # facts between two looks at the peers' records


class Checkers:
    """Attach to a scene; they look on from then on."""

    def __init__(self, scene: Scene, tolerate: tuple[str, ...] = ()) -> None:
        self.scene = scene
        # Invariants whose known breach is counted instead, so that a run can show what lies behind it.
        self.tolerate = tolerate
        self.breaches: dict[str, None] = {}
        # Whether I6 is about answers to questions as well. On a pipe nobody can tell which of a client's
        # calls a question is of, and an answer may wait for its connection when the cancellation comes.
        self.answers_too = True
        self.world = scene.world
        limits = scene.config.limits
        # One message may come on top of what was just below the hard bound.
        self.bound = limits.unsent_hard_bytes + limits.message_bytes + 1024
        self._facts = 0
        self._open: dict[Call, None] = {}
        self._listed = 0
        self.world.watchers.append(self._look)

    def _look(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Write):
                self._written(effect)
        if self.scene.net.most_unsent > self.bound:
            raise Violation(f"I5: {self.scene.net.most_unsent} bytes are queued on one connection")
        self._facts += 1
        if self._facts % EVERY == 0:
            self.look()

    def _written(self, effect: Write) -> None:
        """I6: nothing of a call goes to a server once the gateway knows that it is cancelled."""
        cancelled = [call for call in self._cancelled() if call.nonce]
        if not cancelled:
            return
        stream = self.scene.net.streams.get(effect.conn)
        if stream is None or not (stream.child or hasattr(stream.peer, "server")):
            return
        data = b"".join(effect.chunks)
        if not self.answers_too:
            data = b"\n".join(line for line in data.split(b"\n") if b'"method"' in line)
        for call in cancelled:
            if b'"' + call.nonce.encode() + b'"' in data:
                self._breach(f"{call.nonce} was sent to a server after its cancellation (I6)")

    def _breach(self, told: str) -> None:
        if not any(f"({name})" in told for name in self.tolerate):
            raise Violation(told)
        if told not in self.breaches:
            self.breaches[told] = None
            self.world.count("tolerated")

    def _cancelled(self) -> list[Call]:
        return [
            call
            for client in self.scene.clients
            for call in client.calls[-32:]
            if call.cancelled and call.cancel_seen and not call.answer
        ]

    def look(self) -> None:
        """What the peers have found, and that no channel serves two principals."""
        for problem in self.scene.problems():
            self._breach(problem)
        owner = {client.name: client.principal for client in self.scene.clients}
        for server in self.scene.servers.values():
            for job in server.calls[self._listed :]:
                job.talk.principals[owner[job.nonce.split("/")[0]]] = None
                if len(job.talk.principals) > 1:
                    raise Violation(f"a channel of {server.name} served two principals")

    def finish(self) -> None:
        """After everything is over: each request has its answer or its closed connection (I1)."""
        self.look()
        for client in self.scene.clients:
            for call in client.calls:
                if not call.over and not call.cancelled:
                    self._breach(f"{client.name} has no answer to {call.method} {call.id} {call.nonce} (I1)")

    def at_rest(self) -> None:
        for kept in self.scene.at_rest():
            self._breach(kept)
