package doctor

import (
	"fmt"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"

	"ipsecagent/agent/control"
)

const releaseName = "kernel"

// level is a version of Linux: 6.1.171.
type level struct{ major, minor, patch int }

func (l level) String() string { return fmt.Sprintf("%d.%d.%d", l.major, l.minor, l.patch) }

func (l level) before(o level) bool {
	switch {
	case l.major != o.major:
		return l.major < o.major
	case l.minor != o.minor:
		return l.minor < o.minor
	}
	return l.patch < o.patch
}

// mended are the first versions, series by series, in which ESP no longer decrypts
// in place what other programs share (CVE-2026-43284). Later series have it mended
// from the start.
func mended() []level {
	return []level{{5, 10, 255}, {5, 15, 205}, {6, 1, 171}, {6, 6, 138}, {6, 12, 87}, {6, 18, 28}, {7, 0, 5}}
}

var (
	levelOf       = regexp.MustCompile(`^([0-9]{1,4})\.([0-9]{1,4})(?:\.([0-9]{1,6}))?`)
	levelOfDebian = regexp.MustCompile(`Debian ([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,6})-`)
)

// parseLevel reads the version from what uname says: Debian's kernels name it in
// the version, others in the release.
func parseLevel(release, version string) (level, bool) {
	m := levelOfDebian.FindStringSubmatch(version)
	if m == nil {
		m = levelOf.FindStringSubmatch(release)
	}
	if m == nil {
		return level{}, false
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1]) // digits, or nothing
	}
	return level{n[0], n[1], n[2]}, true
}

// Release finds that the kernel, which decrypts, may have an error that lets what
// is decrypted be written where it should not.
func Release(release, version string) control.Check {
	is, ok := parseLevel(release, version)
	if !ok {
		return Unknown(releaseName, fmt.Errorf("%q is no version of Linux", release))
	}
	all := mended()
	in := ""
	for _, l := range all {
		if l.major == is.major && l.minor == is.minor {
			if !is.before(l) {
				return Fine(releaseName, "%s", release)
			}
			in = ", mended in " + l.String()
		}
	}
	if all[len(all)-1].before(is) {
		return Fine(releaseName, "%s", release)
	}
	return Warning(releaseName, "start a newer kernel; a distribution may have it mended under an older number, which its security tracker says (CVE-2026-43284)",
		"%s may have an error by which ESP decrypts in place what other programs share (CVE-2026-43284)%s", is, in)
}

// ReadRelease asks the kernel for its release and version.
func ReadRelease() (release, version string, err error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", "", fmt.Errorf("doctor: ask for the kernel's version: %w", err)
	}
	return unix.ByteSliceToString(name.Release[:]), unix.ByteSliceToString(name.Version[:]), nil
}
