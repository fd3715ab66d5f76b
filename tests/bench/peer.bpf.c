// The floor of a BPF-routed path: one redirect_peer and nothing else. TARGET is the interface number of the other pair.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("tc")
int to_peer(struct __sk_buff *skb)
{
	return bpf_redirect_peer(TARGET, 0);
}

char _license[] SEC("license") = "GPL";
