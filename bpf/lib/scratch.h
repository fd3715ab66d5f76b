/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Room beside the stack, of which a program and all that it calls have 512 bytes. Owns one piece for each processor; a
 * program's run is over before the next one begins there, and nothing in it outlives the run.
 */
#ifndef SCRATCH_H
#define SCRATCH_H

#include "conntrack.h"

/* More than the longest answer that is made of a packet (refuse.h), in fours. */
#define SCRATCH_FRAME 160

struct scratch {
	struct packet other; /* the packet that an ICMP error quotes; the one that asked for a service */
	struct nat_end asked, is; /* of what that packet is about: who was asked for, and who it is */
	struct nat_end client, own; /* and who asked, and whom he is taken for */
	struct snat_key snat; /* that is looked for */
	struct snat_entry whose; /* that is about to be written */
	union ct_key flow; /* that is looked for */
	struct ct_entry entry; /* that is about to be written */
	__u8 frame[SCRATCH_FRAME];
};

struct {
	FIELD(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__u32 *key;
	struct scratch *value;
	FIELD(max_entries, 1);
	FIELD(pinning, PIN_BY_NAME);
} cilium_scratch SEC(".maps");

/* Never NULL in fact. */
static __always_inline struct scratch *scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cilium_scratch, &zero);
}

#endif
