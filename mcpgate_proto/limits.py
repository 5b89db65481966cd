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
    # An end of the client's stream this soon after its request is half-closing (`nc -N`), not going away: it
    # comes in the same packet or the next. Whoever gives a call up has waited for it longer.
    half_close_s: float = 0.1
    # How long such a call of a stateless client may take: whether it still listens cannot be seen.
    half_close_wait_s: float = 2.0
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

    # Arguments in one record of the audit stream; longer ones are left out.
    audit_arguments_bytes: int = 2048

    # -- backpressure, per connection: pause what feeds it, resume, drop
    unsent_high_bytes: int = 256 * 1024
    unsent_low_bytes: int = 64 * 1024
    # Beyond one whole message a peer that does not drain is dropped.
    unsent_hard_bytes: int = 4 * 1024 * 1024
    # A peer that takes nothing at all for this long is dropped (TCP user timeout is minutes).
    unsent_stall_s: float = 30.0
    # All connections together: beyond it the one with most unsent is dropped. Half of a small container.
    unsent_all_bytes: int = 256 * 1024 * 1024
    # Messages of clients that have not arrived in full, all together: beyond it large ones are refused (503,
    # 1013), those within `unread_free_bytes` never. Two of the largest messages.
    unread_all_bytes: int = 32 * 1024 * 1024
    unread_free_bytes: int = 64 * 1024

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
    # What calls keep until they have an outcome: their requests, answers of clients that come one by one,
    # results that nobody has fetched. Beyond it large ones are refused, within `unread_free_bytes` none.
    # Eight of the largest messages; those of one principal may take three quarters.
    calls_bytes: int = 128 * 1024 * 1024
    streams_per_session: int = 256
    subscriptions_per_session: int = 256
    asks_per_call: int = 32
    rounds_per_call: int = 32
    # Calls of stateless clients that wait for the client's answers, each holding a server's call open.
    parked_calls: int = 1024
    parked_calls_per_principal: int = 64
    # Where each holds a session of its own (pipes, sockets): others must still find one. One principal may
    # have all but one.
    parked_calls_per_server: int = 4
    upstream_sessions: int = 64
    upstream_sessions_per_server: int = 8
    # Of these, what one principal may have: others must still find one.
    upstream_sessions_per_principal: int = 6
    http_connections_per_server: int = 64
    # Of these, what the calls of one principal may use at one time; the rest of them wait. As many streams
    # for its subscriptions may be open besides.
    http_connections_per_principal: int = 48
    # Besides all of them, for what calls wait for, such as answers to their questions, and for health checks.
    http_connections_brief: int = 8
    # Hosts being looked up at one time; several requests for one host are one look-up.
    lookups: int = 64
    # Documents that mcpgate itself fetches (keys, metadata, tokens): at one time, and in the queue. A server
    # has a handful, once an hour; RFC 8414 documents are a few KiB, key sets rarely 20.
    fetches: int = 16
    fetches_waiting: int = 256
    fetch_bytes: int = 256 * 1024
    # httpx and the SDKs: 5 to 30 s.
    fetch_timeout_s: float = 15.0
    # Principals whose tokens for one server are kept in memory.
    wallets: int = 1024
    # A token is renewed this long before it expires (clocks differ, requests take time), at most; the SDKs of
    # large providers take 1 to 5 minutes.
    token_margin_s: float = 60.0
    # What one request waits for a token, and a call for somebody who is logging in: less than the 60 s after
    # which clients give up.
    token_wait_s: float = 20.0
    login_wait_s: float = 50.0
    # Authorization codes live 10 minutes at most (RFC 6749 section 4.1.2); nobody logs in for longer.
    login_timeout_s: float = 600.0
    # After a login that failed, before a browser is opened again unasked.
    login_again_s: float = 60.0

    # -- authentication
    # A bearer token. With groups and roles in it some have 4 KiB; a whole head has 16.
    token_bytes: int = 8 * 1024
    # Tokens whose signature is not checked again with each request, by their digest.
    tokens_kept: int = 1024
    # Clocks of others: RFC 7519 section 4.1.4 allows "usually no more than a few minutes".
    token_leeway_s: float = 30.0
    # Requests that wait for an issuer's keys, and for how long; then they get 503.
    auth_waiting: int = 256
    auth_wait_s: float = 5.0
    # Keys in one set: most have two to four, Google's and Microsoft's below ten.
    jwks_keys: int = 64
    # As jose (JavaScript) has it: fetched again after 10 minutes, and for an unknown `kid` once in 30 s.
    jwks_refresh_s: float = 600.0
    jwks_cooldown_s: float = 30.0
    # While an issuer cannot be reached its last keys stay good; a day is more than any outage of one.
    jwks_stale_s: float = 86_400.0
    # Callers told apart by a token bucket each: nginx's 10 MB zone of limit_req holds 160 000 addresses,
    # which would be 15 MB here per table.
    rate_buckets: int = 16_384
    # Records of refusals: one per caller and minute, so that no flood becomes one of the log.
    notice_s: float = 60.0
    notice_subjects: int = 1024

    # -- catalog
    catalog_pages: int = 200
    catalog_items: int = 10_000
    catalog_bytes: int = 32 * 1024 * 1024
    cursor_bytes: int = 4 * 1024
    # An upstream's own state travels inside ours.
    request_state_bytes: int = 64 * 1024
    instructions_bytes: int = 16 * 1024
    unknown_name_refresh_s: float = 5.0
    # A longer text in a definition is told of: real ones have hundreds of characters, long ones four
    # thousand.
    description_chars: int = 8 * 1024

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
    # Tasks of one session with a legacy server that are known here; an agent has a handful, a batch hundreds.
    tasks_per_session: int = 1024
    # Sessions of one server that one principal's tasks hold, of `upstream_sessions_per_server`: others must
    # still find one.
    task_sessions_per_principal: int = 4
    # How long such a task is asked to be kept, and is kept at most: it holds its session. The SDKs' default
    # is an hour or for ever; a day is the longest that anybody lets a job run unseen.
    task_ttl_s: float = 24 * 3600.0
    # How long a task's questions, or the outcome of one that has ended, may take to come on `tasks/result`.
    task_harvest_s: float = 1.0
    # Outcomes of tasks that the gateway itself answers for (a modern server made none of the call, or has
    # been asked to cancel it): as many as parked calls, and results of ordinary size.
    kept_tasks: int = 1024
    kept_tasks_per_principal: int = 64
    kept_tasks_bytes: int = 64 * 1024 * 1024
    # Where the client does not say how long: the SDKs ask for a minute to an hour.
    kept_task_ttl_s: float = 3600.0
    # Questions of a server that come this close together go to the client in one round.
    ask_debounce_s: float = 0.02
