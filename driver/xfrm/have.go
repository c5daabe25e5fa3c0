package xfrm

import "ipsecagent/driver/xfrm/wire"

// inForce returns the kernel's policies that are ours.
func (e *engine) inForce() (map[key]wire.Policy, error) {
	all, err := e.link.policies()
	if err != nil {
		return nil, err
	}
	out := map[key]wire.Policy{}
	for _, p := range all {
		if e.ours(p) {
			out[keyOf(p)] = p
		}
	}
	return out, nil
}
