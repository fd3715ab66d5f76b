/* SPDX-License-Identifier: Apache-2.0 */
/* ARP of containers: every address is behind the host's side of the veth, so every question has the same answer. */
#ifndef ARP_H
#define ARP_H

#include "deliver.h"

#define ARP_REQUEST 1
#define ARP_REPLY 2

struct arp_frame {
	__u8 to[ETH_ALEN];
	__u8 from[ETH_ALEN];
	__be16 ethertype;
	__be16 hardware;
	__be16 network;
	__u8 hardware_length;
	__u8 network_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target[4];
} __attribute__((packed));

static __always_inline __be32 arp_address(const __u8 *bytes)
{
	__be32 address;

	memcpy(&address, bytes, sizeof(address));
	return address;
}

static __always_inline bool arp_is_sound(const struct arp_frame *arp)
{
	return arp->hardware == bpf_htons(1) && arp->network == bpf_htons(ETH_P_IP) && arp->hardware_length == ETH_ALEN &&
	       arp->network_length == 4 &&
	       (arp->operation == bpf_htons(ARP_REQUEST) || arp->operation == bpf_htons(ARP_REPLY));
}

/* Makes `frame`, which is ready in full, the packet and sends it back where the packet came from. */
static __always_inline int send_back(struct __sk_buff *skb, struct packet *p, const void *frame, __u32 length)
{
	if (skb->len != length && bpf_skb_change_tail(skb, length, 0))
		return drop(skb, p, DROP_WRITE_ERROR);
	if (bpf_skb_store_bytes(skb, 0, frame, length, 0))
		return drop(skb, p, DROP_WRITE_ERROR);
	/* The question may have come by broadcast; the answer is for the receiver alone. */
	if (bpf_skb_change_type(skb, 0 /* PACKET_HOST */))
		return drop(skb, p, DROP_WRITE_ERROR);
	count(REASON_FORWARDED, DIRECTION_INGRESS, length);
	return bpf_redirect_peer(skb->ifindex, 0);
}

/*
 * A question is answered; one about the endpoint's own address (a probe, an announcement) must not be, or the container
 * would see a conflict, and goes to the host's stack, as replies do: both may only speak for the endpoint itself.
 */
__noinline int arp_from_container(struct __sk_buff *skb, struct packet *p)
{
	struct arp_frame arp;
	const struct endpoint *ep;
	__be32 target;

	if (!p)
		return TC_ACT_SHOT;
	ep = endpoint_at(p->source_slot);
	if (!ep)
		return drop(skb, p, DROP_UNKNOWN_SENDER);
	if (bpf_skb_load_bytes(skb, 0, &arp, sizeof(arp)) || !arp_is_sound(&arp))
		return drop(skb, p, DROP_UNSUPPORTED_L2);
	/* A probe (RFC 5227) has no sender address yet. */
	if (arp_address(arp.sender) != ep->ipv4 && (arp_address(arp.sender) || arp.operation != bpf_htons(ARP_REQUEST)))
		return drop(skb, p, DROP_INVALID_SOURCE);
	target = arp_address(arp.target);
	if (arp.operation == bpf_htons(ARP_REPLY) || target == ep->ipv4)
		return deliver_to_stack(skb);
	memcpy(arp.to, ep->mac, ETH_ALEN);
	memcpy(arp.from, ep->node_mac, ETH_ALEN);
	arp.operation = bpf_htons(ARP_REPLY);
	memcpy(arp.target_mac, ep->mac, ETH_ALEN);
	memcpy(arp.target, arp.sender, sizeof(arp.target));
	memcpy(arp.sender_mac, ep->node_mac, ETH_ALEN);
	memcpy(arp.sender, &target, sizeof(arp.sender));
	return send_back(skb, p, &arp, sizeof(arp));
}

#endif
