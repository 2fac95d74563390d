// SPDX-License-Identifier: Apache-2.0

package ring_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/bucketring/bucketring/ring"
)

// TestScenarios replays testdata: members join and leave, and partitions move. The
// owners are part of the wire format, so a changed recording means a cluster that
// splits during an upgrade. Re-record with
// go test -run Scenarios -rewrite.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := story{table: &ring.Table{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "story" {
				d.Fatalf(t, "unknown command %q, want story", d.Cmd)
			}
			var out strings.Builder
			for line := range strings.SplitSeq(d.Input, "\n") {
				answer, err := s.play(strings.Fields(line))
				if err != nil {
					answer = "error: " + err.Error()
				}
				fmt.Fprintf(&out, "%-28s -> %s\n", line, strings.ReplaceAll(answer, "\n", fmt.Sprintf("\n%31s ", "")))
			}
			return out.String()
		})
	})
}

// story is the cluster after a line of a scenario.
type story struct{ table *ring.Table }

// play runs one line and returns what to print.
func (s *story) play(words []string) (string, error) {
	members := slices.Clone(s.table.Members())
	switch words[0] {
	case "join":
		return s.setMembers(append(members, words[1:]...))
	case "leave":
		return s.setMembers(slices.DeleteFunc(members, func(m string) bool { return slices.Contains(words[1:], m) }))
	case "key":
		p := ring.PartitionOf(words[1])
		return fmt.Sprintf("partition %d, owner %s, heir %s", p, orNone(s.table.Owner(p)), orNone(s.table.Heir(p))), nil
	case "partitions":
		return s.partitions(), nil
	case "digest":
		return fmt.Sprintf("%016x", s.table.Digest()), nil
	default:
		return "", fmt.Errorf("unknown line %q", words)
	}
}

// setMembers moves to a set of members, and counts moves from whom to whom.
func (s *story) setMembers(members []string) (string, error) {
	next, err := ring.New(members)
	if err != nil {
		return "", err
	}
	moves := ring.Diff(s.table, next)
	counts, inherited := map[string]int{}, 0
	for _, m := range moves {
		counts[fmt.Sprintf("%s to %s", orNone(m.From), orNone(m.To))]++
		if m.To != "" && !slices.Contains(next.Members(), m.From) && m.To == s.table.Heir(m.Partition) {
			inherited++
		}
	}
	out := fmt.Sprintf("%d members, %d partitions move", len(next.Members()), len(moves))
	if inherited > 0 {
		out += fmt.Sprintf(", %d of them to their heir", inherited)
	}
	for _, pair := range slices.Sorted(maps.Keys(counts)) {
		out += fmt.Sprintf("\n%4d from %s", counts[pair], pair)
	}
	s.table = next
	return out, nil
}

// partitions counts what each member owns and is heir of.
func (s *story) partitions() string {
	owned, heirOf := map[string]int{}, map[string]int{}
	for p := range ring.Partitions {
		owned[s.table.Owner(p)]++
		heirOf[s.table.Heir(p)]++
	}
	var lines []string
	for _, m := range s.table.Members() {
		lines = append(lines, fmt.Sprintf("%s owns %d, heir of %d", m, owned[m], heirOf[m]))
	}
	return strings.Join(lines, "\n")
}

func orNone(member string) string {
	if member == "" {
		return "none"
	}
	return member
}
