//! What `--help` says below the options of each command: examples, environment, exit codes.

/// For `sse-gateway` itself.
pub const GATEWAY: &str = "\
Examples:
  # Try it: events stay in this process, anybody on this machine may do everything
  sse-gateway
  # Serve with Redis, and wait for it at the start
  sse-gateway --config /etc/sse-gateway.toml --redis redis://10.0.0.5:6379 --wait-for-redis 30s
  # The same, by the environment
  SSE_REDIS__URL=redis://10.0.0.5:6379 sse-gateway
  # Log what happens to each stream
  sse-gateway --set log.level=info,sse_gateway::streams=debug
  # What is in force, and where does it come from?
  sse-gateway --config /etc/sse-gateway.toml --print-config

Environment:
  SSE_SECTION__KEY  Any setting: SSE_STREAM__HEARTBEAT=10s is stream.heartbeat. It overrides the
                    file, and flags override it. `sse-gateway defaults` lists all settings
  SSL_CERT_FILE     Authorities for rediss:// and https://, instead of those of the machine
  NOTIFY_SOCKET     systemd's: who is told when the gateway is ready, and when it stops

Signals:
  SIGTERM, SIGINT   Drain and exit; a second one exits at once
  SIGHUP            Read log.level and the certificate again

Exit codes:
  0   Drained, or the configuration is valid
  1   It cannot start (a port is taken, Redis cannot be reached), or was ended by a second signal
  64  The command line, the configuration or a file that it names is not valid
  70  A part of the program died; start it again";

/// For `defaults`.
pub const DEFAULTS: &str = "\
Examples:
  # Begin a configuration file
  sse-gateway defaults > sse-gateway.toml

Environment:
  None. `sse-gateway --print-config` shows what files, variables and flags make of the defaults

Exit codes:
  0   Printed
  64  The command line is not valid";

/// For `healthcheck`.
pub const HEALTHCHECK: &str = "\
It asks GET /readyz at admin.listen, for 10 s at most, and prints why the gateway is not ready.
Give it the configuration of the gateway.

Examples:
  # A container's health check
  sse-gateway healthcheck
  # A gateway on another port
  sse-gateway --admin-listen 127.0.0.1:9091 healthcheck
  # A gateway with a file of its own
  sse-gateway --config /etc/sse-gateway.toml healthcheck

Environment:
  SSE_ADMIN__LISTEN, SSE_TLS__ADMIN and any other setting of the gateway

Exit codes:
  0   Ready
  1   Not ready, or no answer
  64  The command line or the configuration is not valid";

/// For `settings`.
pub const SETTINGS: &str = "\
history.max_len, history.ttl, publish.max_event_bytes, publish.idempotency_ttl and redis.durable
hold for all writers, so Redis keeps them. Where configuration and Redis differ, Redis counts.

Examples:
  # Compare
  sse-gateway --config /etc/sse-gateway.toml settings
  # Keep more, and be asked before it is written
  sse-gateway --redis redis://10.0.0.5:6379 --set history.max_len=5000 settings --apply
  # In a script
  sse-gateway --config /etc/sse-gateway.toml settings --apply --yes

Environment:
  SSE_REDIS__URL, SSE_HISTORY__MAX_LEN and any other setting of the gateway

Exit codes:
  0   Shown, written, or nothing to write
  1   Redis cannot be reached, or the answer was no
  64  The command line or the configuration is not valid";

/// For `partitions`.
pub const PARTITIONS: &str = "\
Stop all gateways before a change, and everything that publishes straight to Redis: the command
refuses while a gateway runs, but does not look for other publishers. If it was interrupted, call it
again with the same number: it does what is left.

Examples:
  # How many are there?
  sse-gateway --config /etc/sse-gateway.toml partitions
  # Divide the channels among 4, and be asked before anything is changed
  sse-gateway --redis redis://10.0.0.5:6379 partitions --to 4
  # In a script
  sse-gateway --config /etc/sse-gateway.toml partitions --to 4 --yes

Environment:
  SSE_REDIS__URL, SSE_REDIS__PARTITIONS and any other setting of the gateway

Exit codes:
  0   Shown, changed, or nothing to change
  1   Redis cannot be reached, a gateway runs, or the answer was no
  64  The command line or the configuration is not valid, or the number is not possible";

/// For `fence`.
pub const FENCE: &str = "\
Every client is told once that events may be missing, and is then sent what the history holds.

Examples:
  # After events were deleted with XDEL
  sse-gateway --redis redis://10.0.0.5:6379 fence
  # With the URL and password of the gateway's own configuration
  sse-gateway --config /etc/sse-gateway.toml fence

Environment:
  SSE_REDIS__URL and any other setting of the gateway

Exit codes:
  0   A new epoch has begun
  1   Redis cannot be reached, or refused
  64  The command line or the configuration is not valid";

/// For `top`.
pub const TOP: &str = "\
It reads /metrics and /connections of each admin port, and changes nothing.
Keys: q quits, p pauses, s changes the order of the streams, arrows scroll, ? helps.

Examples:
  # The gateway on this machine
  sse-gateway top
  # Two gateways
  sse-gateway top --admin 10.0.0.3:9090 --admin 10.0.0.4:9090
  # All gateways behind a name, with their streams
  SSE_KEY=KEY sse-gateway top --admin https://gateways.internal:9090
  # One frame as plain text
  sse-gateway top --once

Environment:
  SSE_KEY            An API key with admin=true
  SSL_CERT_FILE      Certificates to trust for https instead of the system's
  COLUMNS            The width of --once, 80 or more
  NO_COLOR           Set: no colours

Exit codes:
  0   Ended by a key or a signal, or every gateway answered (--once)
  1   A gateway did not answer (--once), or the terminal is gone
  64  The command line or the configuration is not valid, or there is no terminal";
