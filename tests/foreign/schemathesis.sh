#!/usr/bin/env bash
# Sends some thousand generated requests to a running `relink serve`, and checks that each answer is as schemas/openapi.json says: no 5xx,
# no status and no body that is not described. Needs `schemathesis` (pip install schemathesis) and the free port 18480.
#
#   tests/foreign/schemathesis.sh [requests for each operation, 100]
#
# Two checks are left out on purpose: relink accepts more than the schemas say, because a wrong type in a field that no decision depends
# on is no reason to lose a message (`negative_data_rejection`); and some rules are not in the schemas, for example that the body of an
# error must have an error (`positive_data_acceptance`).
set -euo pipefail
cd "$(dirname "$0")/../.."

directory=$(mktemp -d)
cargo build --locked --bin relink
export RELINK_DATA_DIR="$directory/data" RELINK_LISTEN=127.0.0.1:18480 RELINK_LOG=error
export RELINK_WEBHOOK_SECRETS=webhook-secret RELINK_STATUS_WEBHOOK_SECRETS=status-secret RELINK_API_TOKENS=api-token
target/debug/relink serve \
    > "$directory/log" 2>&1 < /dev/null &
relink=$!
trap 'kill "$relink" 2> /dev/null || true; wait "$relink" 2> /dev/null || true; rm -rf "$directory"' EXIT
for _ in $(seq 150); do
    curl --silent --fail --output /dev/null http://127.0.0.1:18480/readyz && break
    kill -0 "$relink" || { cat "$directory/log"; exit 1; }
    sleep 0.2
done

# A dead letter to show.
curl --silent --output /dev/null --header 'Authorization: webhook-secret' --data 'unreadable' http://127.0.0.1:18480/webhooks/belvo

# There are no keys for Belvo, so `update` is answered with 503.
cat > "$directory/schemathesis.toml" << 'END'
[auth.openapi.token]
bearer = "api-token"
[auth.openapi.webhookSecret]
api_key = "webhook-secret"
[auth.openapi.statusSecret]
api_key = "status-secret"
[[operations]]
include-operation-id = "start_update"
[operations.checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", "503"]
END
schemathesis --config-file "$directory/schemathesis.toml" run http://127.0.0.1:18480/openapi.json \
    --max-examples "${1:-100}" --continue-on-failure --exclude-checks negative_data_rejection,positive_data_acceptance
