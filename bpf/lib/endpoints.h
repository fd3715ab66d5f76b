/* SPDX-License-Identifier: Apache-2.0 */
/* Endpoints of this node by slot, and the slot by network device. */
#ifndef ENDPOINTS_H
#define ENDPOINTS_H

#include "config.h"
#include "packet.h"

MAP(cilium_lxc, BPF_MAP_TYPE_ARRAY, __u32, struct endpoint, LXC_SLOTS, BPF_F_RDONLY_PROG);

/* The slot of a host-side device; 0 when it is none of ours. */
static __always_inline __u32 slot_of_ifindex(__u32 ifindex)
{
	__u32 slot = ifindex - lxc_ifindex_base;

	return slot < LXC_SLOTS ? slot : 0;
}

static __always_inline __u32 ifindex_of_slot(__u32 slot)
{
	return lxc_ifindex_base + slot;
}

/* The endpoint in `slot`, or NULL when there is none. */
static __always_inline const struct endpoint *endpoint_at(__u32 slot)
{
	const struct endpoint *ep = bpf_map_lookup_elem(&cilium_lxc, &slot);

	return ep && slot && (ep->flags & ENDPOINT_VALID) ? ep : NULL;
}

/* Whether `address` is the endpoint's own one; an endpoint without an address of that family has none. */
static __always_inline bool endpoint_has4(const struct endpoint *ep, const union address *address)
{
	return address->v4 && ep->ipv4 == address->v4;
}

static __always_inline bool endpoint_has6(const struct endpoint *ep, const union address *address)
{
	const __u64 *own = (const __u64 *)ep->ipv6;

	return own[0] == address->half[0] && own[1] == address->half[1] && (own[0] | own[1]);
}

static __always_inline bool endpoint_has(const struct endpoint *ep, const union address *address, bool v6)
{
	return v6 ? endpoint_has6(ep, address) : endpoint_has4(ep, address);
}

#endif
