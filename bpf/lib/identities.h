/* SPDX-License-Identifier: Apache-2.0 */
/* Of whom a packet through the tunnel may be: user space lists the identities that policies here are complete about. */
#ifndef IDENTITIES_H
#define IDENTITIES_H

#include "kernel.h"

MAP(cilium_identities, BPF_MAP_TYPE_HASH, __u32, __u32, IDENTITY_ENTRIES, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);

/* Whether policies here are complete about an identity. Reserved ones they always are. */
static __always_inline bool identity_is_judged(__u32 identity)
{
	return identity < IDENTITY_FIRST_CLUSTER || bpf_map_lookup_elem(&cilium_identities, &identity);
}

#endif
