package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// What an unchanged poll may cost at most, and by how much the busiest second
// may be above the mean while a change is taken.
const (
	maxPollRequests = 3
	maxPollBytes    = 2048
	maxSpike        = 3
	// slack is what a change may take beyond the jitter: to be told, gathered,
	// read, and read anew by those who came while it was being written.
	slack = 25 * time.Second
	// aFleet is how many agents it takes for times and rates to say something.
	aFleet = 500
)

func per(n uint64, agents int) float64 { return float64(n) / float64(max(agents, 1)) }

// line is a phase in words.
func (p *phase) line(name string, agents int) string {
	words := ""
	if p.troubled > 0 {
		words = fmt.Sprintf("; %d agents had to try again: %v", p.troubled, p.trouble)
	}
	return fmt.Sprintf("%s: %.1f s; each of %d agents %.1f requests, %.0f bytes (at most %d and %d), %.2f binds, %.2f talks with a KDC; servers %.1f s of a processor, %d MiB",
		name, p.took.Seconds(), agents, per(p.all.requests, agents), per(p.all.bytes, agents), p.most.requests, p.most.bytes,
		per(p.all.binds, agents), per(p.all.tickets, agents), p.cpu.Seconds(), p.memory>>20) + words
}

// spike is the busiest second, and the mean if all of it were evenly spread over
// a time.
func spike(seconds []uint64, over time.Duration) (peak uint64, mean float64) {
	var sum uint64
	for _, n := range seconds {
		sum += n
		peak = max(peak, n)
	}
	return peak, float64(sum) / over.Seconds()
}

// spikeWords is a spike in words.
func spikeWords(seconds []uint64, over time.Duration) string {
	peak, mean := spike(seconds, over)
	return fmt.Sprintf("%d, %.0f (%.2f times)", peak, mean, float64(peak)/max(mean, 1))
}

// beyond names the limits that were not kept.
func (g *figures) beyond(o options) []string {
	var all []string
	limit := func(kept bool, format string, args ...any) {
		if !kept {
			all = append(all, g.server+": "+fmt.Sprintf(format, args...))
		}
	}
	limit(g.poll.most.requests <= maxPollRequests && g.poll.most.bytes <= maxPollBytes,
		"an unchanged poll took %d requests and %d bytes", g.poll.most.requests, g.poll.most.bytes)
	limit(g.poll.all.binds == 0, "%d connections were not kept between polls", g.poll.all.binds)
	limit(g.agents == o.agents && g.held == o.agents && g.failing == 0,
		"%d of %d agents started, %d connections are held, %d agents have no answer", g.agents, o.agents, g.held, g.failing)
	if g.agents < aFleet {
		return all
	}
	last := slices.Max(g.reached)
	limit(last <= o.jitter+slack, "a change took %.1f s to reach all", last.Seconds())
	peak, mean := spike(g.change.rates, o.jitter)
	limit(float64(peak) <= maxSpike*mean, "the busiest second of a change had %d requests, the mean within the jitter is %.0f", peak, mean)
	return all
}

// table prints the figures of all servers side by side, in Markdown.
func table(out io.Writer, all []*figures) {
	fmt.Fprintf(out, "\n| |%s\n|---|%s\n", columns(all, func(g *figures) string { return g.server }), columns(all, func(*figures) string { return "---" }))
	for _, row := range rows() {
		fmt.Fprintf(out, "| %s |%s\n", row.name, columns(all, row.of))
	}
	for _, g := range all {
		fmt.Fprintf(out, "\n%s, requests in each second of the change: %d\nbytes from the server: %d\n", g.server, g.change.rates, g.change.flow)
	}
}

func columns(all []*figures, of func(*figures) string) string {
	line := ""
	for _, g := range all {
		line += " " + of(g) + " |"
	}
	return line
}

type row struct {
	name string
	of   func(*figures) string
}

func rows() []row {
	number := func(format string, of func(*figures) float64) func(*figures) string {
		return func(g *figures) string { return fmt.Sprintf(format, of(g)) }
	}
	each := func(p func(*figures) *phase, n func(counts) uint64) func(*figures) float64 {
		return func(g *figures) float64 { return per(n(p(g).all), g.agents) }
	}
	cpu := func(p func(*figures) *phase) func(*figures) string {
		return number("%.2f ms", func(g *figures) float64 { return per(uint64(p(g).cpu.Microseconds()), g.agents) / 1000 })
	}
	start, poll, change := func(g *figures) *phase { return &g.start }, func(g *figures) *phase { return &g.poll }, func(g *figures) *phase { return &g.change }
	requests, bytes := func(c counts) uint64 { return c.requests }, func(c counts) uint64 { return c.bytes }
	return []row{
		{"agents, connections held", func(g *figures) string { return fmt.Sprintf("%d, %d", g.agents, g.held) }},
		{"processes of the servers", func(g *figures) string { return fmt.Sprint(g.processes) }},
		{"memory of the servers with no agent, with all", func(g *figures) string { return fmt.Sprintf("%d, %d MiB", g.empty>>20, g.change.memory>>20) }},
		{"start: all have their policy after", number("%.0f s", func(g *figures) float64 { return g.start.took.Seconds() })},
		{"start: requests of LDAP, each agent", number("%.1f", each(start, requests))},
		{"start: bytes, each agent", number("%.0f", each(start, bytes))},
		{"start: talks with the KDC, with DNS, pings, each agent", func(g *figures) string {
			a := g.start.all
			return fmt.Sprintf("%.1f, %.1f, %.1f", per(a.tickets, g.agents), per(a.names, g.agents), per(a.pings, g.agents))
		}},
		{"start: processor time of the servers, each agent", cpu(start)},
		{"idle: processors that the servers use", number("%.2f", func(g *figures) float64 { return g.idle.cpu.Seconds() / g.idle.took.Seconds() })},
		{"unchanged poll: requests", number("%.2f", each(poll, requests))},
		{"unchanged poll: bytes, sealed", number("%.0f", each(poll, bytes))},
		{"unchanged poll: processor time of the servers", cpu(poll)},
		{"change: requests, each agent", number("%.1f", each(change, requests))},
		{"change: bytes, each agent", number("%.0f", each(change, bytes))},
		{"change: processor time of the servers, each agent", cpu(change)},
		{"change: half of the agents have it after, all", func(g *figures) string {
			return fmt.Sprintf("%.1f s, %.1f s", g.reached[len(g.reached)/2].Seconds(), g.reached[len(g.reached)-1].Seconds())
		}},
		{"agents that had to try again: at the start, when polling, after the change", func(g *figures) string {
			return fmt.Sprintf("%d, %d, %d", g.start.troubled, g.poll.troubled, g.change.troubled)
		}},
		{"change: requests in the busiest second, mean within the jitter", func(g *figures) string { return spikeWords(g.change.rates, g.jitter) }},
		{"change: bytes from the server in the busiest second, mean within the jitter", func(g *figures) string { return spikeWords(g.change.flow, g.jitter) }},
	}
}
