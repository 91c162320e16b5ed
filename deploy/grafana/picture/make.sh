#!/bin/sh
# Makes relink.png: runs relink, Belvo's sandbox and Prometheus for some minutes with real inputs, and draws the dashboard with
# Grafana's own components (the npm package @grafana/ui). Grafana itself is not needed.
#
#     cargo build --release && sh deploy/grafana/picture/make.sh [MINUTES]
#
# Needs node, npm, curl, and from Debian: prometheus, chromium, pngquant. PROMETHEUS and CHROMIUM are their programs, if they are elsewhere.
# Uses the ports 18480 to 18482, 18490, 14222 and 19090 of this host.
set -eu
minutes=${1:-14}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
relink=$root/target/release/relink
prometheus=${PROMETHEUS:-prometheus}
for program in "$relink" "$prometheus" node npm curl pngquant; do
  command -v "$program" > /dev/null || { echo "make.sh: $program is missing; see the head of this file" >&2; exit 1; }
done
work=$(mktemp -d)
pids=""
trap 'for pid in $pids; do kill "$pid" 2> /dev/null || true; done; wait; rm -rf "$work"' EXIT
cp "$here"/* "$work"
cd "$work"
npm install --ignore-scripts --no-audit --no-fund --loglevel=error

sandbox=http://127.0.0.1:18490/sandbox
"$relink" sandbox --listen 127.0.0.1:18490 --webhook-url http://127.0.0.1:18480/webhooks/belvo \
  --webhook-authorization 'Bearer picture-webhooks' > sandbox.log 2>&1 & pids="$pids $!"
curl --silent --retry 20 --retry-connrefused --retry-delay 1 --output /dev/null "$sandbox/links"
send() { curl --silent --fail --header 'content-type: application/json' --data "$2" "$sandbox/$1"; }
# Links that are older than relink; every eighth is broken already.
for n in $(seq 40); do
  bank=$(echo erebor_mx_retail gringotts_co_retail heimdall_mx_retail tatooine_mx_fiscal | cut -d' ' -f$((n % 4 + 1)))
  link=$(send links "{\"institution\":\"$bank\",\"external_id\":\"old-$n\",\"silent\":true}" | cut -d'"' -f4)
  [ $((n % 8)) -ne 0 ] || send "links/$link/status" '{"status":"invalid"}' > /dev/null
done
"$prometheus" --config.file=prometheus.yml --storage.tsdb.path=tsdb --web.listen-address=127.0.0.1:19090 > prometheus.log 2>&1 & pids="$pids $!"
"$relink" serve --config relink.toml --data-dir data > relink.log 2>&1 & pids="$pids $!"
echo "make.sh: $minutes minutes of inputs"
node traffic.mjs "$minutes" > traffic.log
node draw.mjs "$root/deploy/grafana/relink.json" http://127.0.0.1:19090 picture.png "now-${minutes}m"
pngquant --force --nofs --output "$root/deploy/grafana/relink.png" 256 picture.png
echo "make.sh: deploy/grafana/relink.png is new"
