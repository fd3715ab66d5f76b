/* SPDX-License-Identifier: Apache-2.0 */
/* Counters by reason and direction, one cache line per reason and CPU. */
#ifndef METRICS_H
#define METRICS_H

#include "kernel.h"

MAP(cilium_metrics, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct metric, METRIC_REASONS, 0);

/* Counts one packet under `reason` for each bit of `directions`. */
static __always_inline void count(__u32 reason, __u32 directions, __u32 bytes)
{
	struct metric *metric = bpf_map_lookup_elem(&cilium_metrics, &reason);

	if (!metric)
		return;
	if (directions & DIRECTION_INGRESS) {
		metric->packets[DIRECTION_INGRESS]++;
		metric->bytes[DIRECTION_INGRESS] += bytes;
	}
	if (directions & DIRECTION_EGRESS) {
		metric->packets[DIRECTION_EGRESS]++;
		metric->bytes[DIRECTION_EGRESS] += bytes;
	}
}

#endif
