"""Every bound of the core, in one place.

Owns: `Limits`, whose fields each name what they bound; the comment gives the precedent or the reason.
Must never: be bypassed. A thing that can grow and is not bounded here is a defect.
"""

from __future__ import annotations

import msgspec

__all__ = ["Limits"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes, times in seconds, counts plain. Defaults suit a laptop and a small team's server."""

    # -- messages
    # The largest JSON-RPC message either way. MCP names none; the SDKs take 4 MiB bodies and more,
    # base64 images make 5 MB results ordinary.
    message_bytes: int = 16 * 1024 * 1024
    # JSON nesting. Python's parsers recurse at about 1000; real schemas stay below 30.
    json_depth: int = 64
    # Messages in one 2025-03-26 batch.
    batch_messages: int = 64

    # -- HTTP syntax (both roles)
    # nginx: 4 x 8 KiB of head; node: 16 KiB.
    head_bytes: int = 16 * 1024
    # nginx has no count, Apache takes 100.
    head_fields: int = 100
    # RFC 9112 section 3 recommends at least 8000 octets.
    target_bytes: int = 8 * 1024
    # Wire bytes of one chunk header: a size and a modest extension.
    chunk_header_bytes: int = 256
    # Chunks of one body: real clients send a few large ones; 20 000 one-byte chunks cost 0.8 s of CPU.
    body_chunks: int = 8 * 1024
    # Requests on one connection: nginx keepalive_requests 1000, enlarged since calls are small.
    requests_per_connection: int = 10_000
    # Head to arrive in full: Apache RequestReadTimeout header=20-40, nginx 60; slowloris needs less.
    head_timeout_s: float = 10.0
    # A body must keep this rate after a first grace, Apache's MinRate idea.
    body_grace_s: float = 10.0
    body_rate_bytes_s: float = 1024.0
    # Between requests: nginx keepalive_timeout 75.
    keep_alive_s: float = 75.0
    # How much of a refused body is read and dropped before the connection is closed.
    discard_bytes: int = 256 * 1024
    discard_timeout_s: float = 2.0

    # -- event streams
    sse_event_bytes: int = 16 * 1024 * 1024
    # WHATWG HTML suggests a comment "every 15 seconds or so"; proxies cut quiet streams at 30 or 60.
    sse_comment_s: float = 15.0
    # How long an answer may still become plain JSON with its own status (C14) before a stream begins.
    sse_commit_s: float = 10.0
    # Replay for Last-Event-ID, per stream and per session.
    replay_events: int = 256
    replay_bytes: int = 1024 * 1024
    replay_ttl_s: float = 120.0

    # -- backpressure, per connection: pause what feeds it, resume, drop
    unsent_high_bytes: int = 256 * 1024
    unsent_low_bytes: int = 64 * 1024
    # Beyond one whole message a peer that does not drain is dropped.
    unsent_hard_bytes: int = 4 * 1024 * 1024
    # A peer that takes nothing at all for this long is dropped (TCP user timeout is minutes).
    unsent_stall_s: float = 30.0

    # -- WebSocket
    ws_fragments: int = 1024
    # Pings, pongs and closes; a browser sends one ping in 20 s at most. Also the burst.
    ws_control_frames_per_s: int = 100
    # Text frames that hold no message before the connection is closed with 1008.
    ws_malformed: int = 20
    # The websockets library: 20 s and 20 s.
    ws_ping_interval_s: float = 20.0
    ws_ping_timeout_s: float = 20.0

    # -- stdio
    # Lines on a child's stdout that are not JSON before its first message: banners of launchers.
    garbage_lines: int = 100
    stderr_line_bytes: int = 4 * 1024
    stderr_lines_kept: int = 20

    # -- tables
    connections: int = 1024
    sessions: int = 1024
    sessions_per_principal: int = 256
    calls_per_session: int = 256
    calls: int = 4096
    streams_per_session: int = 256
    subscriptions_per_session: int = 256
    asks_per_call: int = 32
    rounds_per_call: int = 32
    # Calls of stateless clients that wait for the client's answers, each holding a server's call open.
    parked_calls: int = 1024
    parked_calls_per_principal: int = 64
    # Where each holds a session of its own (pipes, sockets): others must still find one.
    parked_calls_per_server: int = 4
    upstream_sessions: int = 64
    upstream_sessions_per_server: int = 8
    http_connections_per_server: int = 64
    # Hosts being looked up at one time; several requests for one host are one look-up.
    lookups: int = 64

    # -- catalog
    catalog_pages: int = 200
    catalog_items: int = 10_000
    catalog_bytes: int = 32 * 1024 * 1024
    cursor_bytes: int = 4 * 1024
    # An upstream's own state travels inside ours.
    request_state_bytes: int = 64 * 1024
    instructions_bytes: int = 16 * 1024
    unknown_name_refresh_s: float = 5.0

    # -- time
    # The longest that a call may take, however much progress it reports.
    call_ceiling_s: float = 3600.0
    # What a client's first request waits for servers that are slow to start.
    startup_wait_s: float = 5.0
    # Server probes: launchers (npx, uvx) download before they speak (F16).
    probe_timeout_s: float = 30.0
    handshake_timeout_s: float = 60.0
    dial_timeout_s: float = 10.0
    # For the empty response to a POST that carries no request.
    notify_timeout_s: float = 15.0
    # Wait for an upstream session that is busy with another client's interactive call.
    lease_wait_s: float = 30.0
    # No traffic: legacy sessions, upstream sessions and their children, pooled HTTP connections.
    session_idle_s: float = 3600.0
    upstream_idle_s: float = 900.0
    # Earlier than any server would (node and uvicorn drop idle connections after 5 s), so that a call never
    # meets a connection that is just being closed.
    http_idle_s: float = 4.0
    # Restart of a server: first delay, doubled up to the last, each with jitter.
    restart_first_s: float = 0.5
    restart_last_s: float = 60.0
    # Steps of stopping a child: stdin closed, SIGTERM, SIGKILL (stdio.mdx Shutdown).
    stop_wait_s: float = 5.0
    term_wait_s: float = 5.0
    # After stdin ends: answers to requests already taken may still go out.
    eof_grace_s: float = 2.0
    close_timeout_s: float = 5.0
    # Several list changes of servers within this time make one notification.
    coalesce_s: float = 0.05
    # Polling where a server cannot notify: never faster than this.
    poll_least_s: float = 30.0
    # Sealed tokens that a client may bring back: cursors, request states.
    cursor_ttl_s: float = 3600.0
    request_state_ttl_s: float = 24 * 3600.0
    # People answer late; a parked call holds a server's session meanwhile.
    park_ttl_s: float = 1800.0
    # How often a task is asked for on behalf of a client: where its server does not say, and the bounds
    # of what it may say.
    task_poll_s: float = 1.0
    task_poll_least_s: float = 0.25
    task_poll_most_s: float = 60.0
    # Questions of a server that come this close together go to the client in one round.
    ask_debounce_s: float = 0.02
