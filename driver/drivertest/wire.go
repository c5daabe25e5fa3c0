package drivertest

// WireRules are the nftables rules for the bridge between two hosts, whose
// ports are p0 and p1: for each host apart they count what it puts on the wire.
// Later fragments of UDP show no port: they are neither secured nor clear; the
// first one is. Reports of multicast listeners go by their address too: now and
// then the kernel does not find the ICMPv6 header behind their hop-by-hop
// options. The sets show what was in clear.
const WireRules = `
table bridge wire {
  counter secured0 {}
  counter clear0 {}
  counter secured1 {}
  counter clear1 {}
  counter long6 {}
  counter laterudp0 {}
  counter laterudp1 {}
  set clear4 { typeof iifname . ip saddr . ip daddr . ip protocol; flags dynamic; size 16; }
  set clear6 { typeof iifname . ip6 saddr . ip6 daddr . ip6 nexthdr; flags dynamic; size 16; }
  set clearother { typeof iifname . ether type; flags dynamic; size 16; }
  chain shown {
    ether type ip update @clear4 { iifname . ip saddr . ip daddr . ip protocol } return
    ether type ip6 update @clear6 { iifname . ip6 saddr . ip6 daddr . ip6 nexthdr } return
    update @clearother { iifname . ether type }
  }
  chain long {
    type filter hook prerouting priority -1;
    ether type ip6 meta length > 1300 counter name long6
  }
  chain pre {
    type filter hook prerouting priority 0;
    ether type arp accept
    icmpv6 type { 130-137,143 } accept
    ip6 daddr ff02::16 ip6 nexthdr 0 accept
    udp dport 500 accept
    iifname p0 ip protocol { 50, 51 } counter name secured0 accept
    iifname p0 ip6 nexthdr { 50, 51 } counter name secured0 accept
    iifname p0 frag nexthdr { 50, 51 } counter name secured0 accept
    iifname p0 udp sport 4500 counter name secured0 accept
    iifname p0 udp dport 4500 counter name secured0 accept
    iifname p0 ip frag-off & 0x1fff != 0 ip protocol 17 counter name laterudp0 accept
    iifname p0 frag frag-off != 0 frag nexthdr 17 counter name laterudp0 accept
    iifname p0 counter name clear0 jump shown
    iifname p1 ip protocol { 50, 51 } counter name secured1 accept
    iifname p1 ip6 nexthdr { 50, 51 } counter name secured1 accept
    iifname p1 frag nexthdr { 50, 51 } counter name secured1 accept
    iifname p1 udp sport 4500 counter name secured1 accept
    iifname p1 udp dport 4500 counter name secured1 accept
    iifname p1 ip frag-off & 0x1fff != 0 ip protocol 17 counter name laterudp1 accept
    iifname p1 frag frag-off != 0 frag nexthdr 17 counter name laterudp1 accept
    iifname p1 counter name clear1 jump shown
  }
}`
