/* SPDX-License-Identifier: Apache-2.0 */
/* What user space changes while the programs run. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include "kernel.h"

MAP(cilium_runtime, BPF_MAP_TYPE_ARRAY, __u32, struct runtime, 1, BPF_F_RDONLY_PROG);

/* Never NULL in fact; the verifier does not know that an array has its first element. */
static __always_inline const struct runtime *runtime(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cilium_runtime, &zero);
}

static __always_inline __u32 ipcache_generation(void)
{
	const struct runtime *r = runtime();

	return r ? r->ipcache_generation : 0;
}

static __always_inline __u32 monitor_level(void)
{
	const struct runtime *r = runtime();

	return r ? r->monitor : MONITOR_DROPS;
}

/*
 * Whether a packet that was let through is told of; `due` when its flow has earned a trace. Asked when all else is done:
 * what the runtime says is nothing to keep on the stack meanwhile.
 */
static __always_inline bool trace_wanted(bool due)
{
	return (due && monitor_level() == MONITOR_MEDIUM) || monitor_level() >= MONITOR_ALL;
}

#endif
