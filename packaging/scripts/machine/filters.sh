# Filters of addresses, as shipped and as made from the configuration.
# shellcheck shell=bash disable=SC2154 # guest.sh sources this

say "filters of addresses: two networks, one of them private"
# A neighbour with an address of each: neighbour NAME NUMBER OUR-ADDRESS ITS-ADDRESS
neighbour() {
    ip netns add "$1"
    ip link add "to-$1" type veth peer name eth0 netns "$1"
    ip addr add "$2/24" dev "to-$1"
    ip link set "to-$1" up
    ip -n "$1" addr add "$3/24" dev eth0
    ip -n "$1" link set eth0 up
}
neighbour private 10.20.0.1 10.20.0.9
neighbour public 203.0.113.1 203.0.113.9
# Whether the agent answers a source there: reaches NEIGHBOUR OUR-ADDRESS
reaches() { ip netns exec "$1" timeout 5 bash -c "exec 3<>/dev/tcp/$2/5514"; }
tells() { ip netns exec "$1" logger --server "$2" --port 5514 --tcp --tag test "$3"; }
reaches private 10.20.0.1 || fail "a source in a private network is refused by the unit as shipped"
if reaches public 203.0.113.1; then fail "a source with a public address is heard by the unit as shipped"; fi
tells private 10.20.0.1 from-a-private-network
carried from-a-private-network
if timeout 30 ip netns exec public logger --server 203.0.113.1 --port 5514 --udp --tag test nobody-hears-this; then :; fi
note "as shipped: 10.20.0.9 is heard, 203.0.113.9 is not"

# The same agent without filters, so that it is the filter and not the network that refuses.
mkdir -p /run/systemd/system/penstock-high.service.d
printf '[Service]\nIPAddressAllow=any\n' >/run/systemd/system/penstock-high.service.d/open.conf
systemctl daemon-reload
systemctl restart penstock-high
reaches public 203.0.113.1 || fail "a source with a public address is not heard without a filter, either"
rm -r /run/systemd/system/penstock-high.service.d
systemctl daemon-reload
systemctl restart penstock-high

say "the drop-in that is made: 10.20.0.0/24 and nobody else"
handbook exactly-what-the-configuration-names 1
reaches private 10.20.0.1 || fail "the source that the drop-in names is refused"
if reaches public 203.0.113.1; then fail "the drop-in lets a public address in"; fi
ip addr add 10.21.0.1/24 dev to-private
ip -n private addr add 10.21.0.9/24 dev eth0
if reaches private 10.21.0.1; then fail "the drop-in lets in another private network"; fi
curl --silent --fail --max-time 5 --output /dev/null --data '{"output":"x"}' http://127.0.0.1:2801/ ||
    fail "a source on this machine is refused with the drop-in"
tells private 10.20.0.1 from-the-named-network
carried from-the-named-network
note "$(systemctl show -p IPAddressAllow penstock-high)"
note "exposure with it: $(exposure penstock-high.service)"

say "a sink that the unit does not let the low side reach"
cat >>/etc/penstock/low.toml <<'END'

[[sink]]
name = "abroad"
type = "syslog"
address = "203.0.113.9:6514"
transport = "tcp"
END
systemctl restart penstock-low
# A connection that the filter keeps from leaving gets no answer, and no error either.
through delivered-beside-a-sink-out-of-reach
timed_out() { penstock-low status | grep -A 2 abroad | grep -E 'timed out|Operation not permitted'; }
wait_for "status tells of the sink that can't be reached" timed_out
note "$(timed_out | head -n 1)"
sed -i '/^name = "abroad"$/,$d' /etc/penstock/low.toml
sed -i '$d' /etc/penstock/low.toml
penstock-low check-config >/dev/null
systemctl restart penstock-low
