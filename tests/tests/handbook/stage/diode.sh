paired
# Until the page sets up the interface, both ends are this machine.
ip address add 192.0.2.2/32 dev lo
#> penstock-low diode doctor
block high 1; block low 2
systemctl start penstock-low
systemctl start penstock-high
tell 2; penstock-high seal > /dev/null
delivered 2
fine() {
    penstock-low diode doctor > /run/doctor 2>&1 && ! grep -q 'no agent' /run/doctor &&
        penstock-low diode --resend /run/resend.json > /dev/null 2>&1
}
await fine
#> ip -brief link
ip address del 192.0.2.2/32 dev lo
ip link add eth1 type veth peer name eth2
ip link set eth1 up
#> nft -f -
#> nft -f -
nft delete table netdev oneway
#> penstock-low diode --resend
mount -t tmpfs stick /media/stick
