/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The programs on the host-side veth of every endpoint, and on the tunnel device. All endpoints share them: which one a
 * packet belongs to is told by the number of the device (endpoints.h), and everything about it is data.
 *
 *     container ---> from_container ---> other container     (both policies judged, past the host's stack)
 *                                   |--> tunnel device       (containers on other nodes)
 *                                   \--> host's stack        (host, world; it routes and translates)
 *     container <--- to_container  <--- host's stack
 *     container <--- from_overlay  <--- tunnel device        (what is for the host: its stack)
 *     tunnel    <--- to_overlay    <--- host's stack
 *
 * Where the kernel has no device for the tunnel's format the programs speak it (geneve.h), and another is on the devices
 * by which other nodes are reached:
 *
 *     container <--- from_underlay <--- uplink               (what is for the host: its stack, by the tunnel device)
 *
 * The same is on the host's devices for services that are asked for from outside, and without a tunnel for flows with other
 * nodes' pods (uplink.h); from_container sends by the host's routes, past its stack (deliver.h):
 *
 *     container <--- from_underlay  <--- uplink
 *     container ---> from_container ---> uplink              (the answers, and without a tunnel other nodes' pods)
 */
#include "lib/arp.h"
#include "lib/enter.h"
#include "lib/lb.h"
#include "lib/leave.h"
#include "lib/neighbour.h"
#include "lib/overlay.h"
#include "lib/uplink.h"

/* Ethernet II: smaller numbers are lengths (IEEE 802.3). */
#define FIRST_ETHERTYPE 0x0600

static __always_inline __u32 reason_for_ethertype(__be16 type)
{
	return bpf_ntohs(type) < FIRST_ETHERTYPE ? DROP_UNSUPPORTED_L2 : DROP_UNSUPPORTED_L3;
}

SEC("classifier/from_container") int from_container(struct __sk_buff *skb)
{
	struct packet p = { .point = POINT_FROM_ENDPOINT, .direction = DIRECTION_EGRESS };
	const struct endpoint *ep;
	__be16 type;

	p.source_slot = slot_of_ifindex(skb->ifindex);
	ep = endpoint_at(p.source_slot);
	if (unlikely(!ep))
		return drop(skb, &p, DROP_UNKNOWN_SENDER);
	p.source_identity = ep->identity;
	type = skb->vlan_present ? 0 : ethertype(skb);
	if (likely(type == bpf_htons(ETH_P_IP)))
		return leave(skb, &p, ep, false);
	if (type == bpf_htons(ETH_P_IPV6))
		return leave(skb, &p, ep, true);
	if (type == bpf_htons(ETH_P_ARP))
		return arp_from_container(skb, &p);
	return drop(skb, &p, reason_for_ethertype(type));
}

SEC("classifier/to_container") int to_container(struct __sk_buff *skb)
{
	struct packet p = { .point = POINT_TO_ENDPOINT, .direction = DIRECTION_INGRESS };
	const struct endpoint *ep;
	__be16 type;

	p.destination_slot = slot_of_ifindex(skb->ifindex);
	ep = endpoint_at(p.destination_slot);
	if (unlikely(!ep))
		return drop(skb, &p, DROP_NO_ENDPOINT);
	p.destination_identity = ep->identity;
	type = skb->vlan_present ? 0 : ethertype(skb);
	if (likely(type == bpf_htons(ETH_P_IP)))
		return enter(skb, &p, ep, false);
	if (type == bpf_htons(ETH_P_IPV6))
		return enter(skb, &p, ep, true);
	if (type == bpf_htons(ETH_P_ARP)) {
		count(REASON_FORWARDED, DIRECTION_INGRESS, skb->len);
		return TC_ACT_OK;
	}
	return drop(skb, &p, reason_for_ethertype(type));
}

SEC("classifier/from_overlay") int from_overlay(struct __sk_buff *skb)
{
	struct packet p = { .point = POINT_FROM_OVERLAY, .direction = DIRECTION_INGRESS };
	__u32 reason;
	__be16 type;

	if (geneve == GENEVE_PROGRAMS)
		return overlay_opened(skb, &p);
	reason = tunnel_sender(skb, &p);
	if (unlikely(reason))
		return drop(skb, &p, reason);
	type = skb->vlan_present ? 0 : ethertype(skb);
	if (likely(type == bpf_htons(ETH_P_IP)))
		return overlay_in(skb, &p, false);
	if (type == bpf_htons(ETH_P_IPV6))
		return overlay_in(skb, &p, true);
	return drop(skb, &p, reason_for_ethertype(type));
}

SEC("classifier/to_overlay") int to_overlay(struct __sk_buff *skb)
{
	struct packet p = { .point = POINT_TO_OVERLAY, .direction = DIRECTION_EGRESS };
	__be16 type;

	if (geneve != GENEVE_PROGRAMS && likely(tunnel_is_addressed(skb)))
		return TC_ACT_OK;
	type = skb->vlan_present ? 0 : ethertype(skb);
	if (type == bpf_htons(ETH_P_IP))
		return overlay_out(skb, &p, false);
	if (type == bpf_htons(ETH_P_IPV6))
		return overlay_out(skb, &p, true);
	return drop(skb, &p, reason_for_ethertype(type));
}

/* On other people's devices: what is not for our tunnel goes on as if this were not here. */
SEC("classifier/from_underlay") int from_underlay(struct __sk_buff *skb)
{
	struct packet p = { .point = POINT_TO_ENDPOINT, .direction = DIRECTION_INGRESS };
	int reason;
	bool v6;

	if (skb->vlan_present || skb->pkt_type != PACKET_HOST)
		return TC_ACT_UNSPEC;
	v6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (!v6 && skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_UNSPEC;
	if (geneve != GENEVE_PROGRAMS || !(v6 ? geneve_calls(skb, true) : geneve_calls(skb, false)))
		return v6 ? uplink_in(skb, &p, true) : uplink_in(skb, &p, false);
	reason = geneve_open(skb, &p);
	if (reason == NOT_TUNNELLED)
		return TC_ACT_UNSPEC;
	p.point = POINT_FROM_OVERLAY;
	if (unlikely(reason))
		return drop(skb, &p, reason);
	return p.family == FAMILY_IPV6 ? overlay_carried(skb, &p, true) : overlay_carried(skb, &p, false);
}

/* Never attached. Run by user space, its result is the clock of conntrack: jiffies, which nothing else tells exactly. */
SEC("classifier/clock") int clock(struct __sk_buff *skb)
{
	return now_jiffies();
}

char LICENSE[] SEC("license") = "GPL";
