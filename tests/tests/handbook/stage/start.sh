#> logger
ready() { curl --silent --fail --unix-socket "$1/state/page.sock" http://localhost/readyz; }
await ready ~/penstock-high && await ready ~/penstock-low
#> penstock-high --config ~/penstock-high/high.toml status
one() { [ "$(penstock-high --config ~/penstock-high/high.toml status --json | jq '[.lanes[].received] | add')" = 1 ]; }
await one
#> tail
await test -s /var/tmp/penstock-events/events.ndjson
#> penstock-low --config ~/penstock-low/low.toml verify
#= 65
#.
grep -q '"raw":"<13>.*hello from the secure zone' /var/tmp/penstock-events/events.ndjson
