package control

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// VersionInfo describes a program: the answer of /v1/version.
type VersionInfo struct {
	SchemaVersion string `json:"schemaVersion"`
	Version       string `json:"version"`            // of the release, "unreleased" between releases
	Revision      string `json:"revision,omitempty"` // of the source
	Modified      bool   `json:"modified,omitempty"` // built from changed source
	Go            string `json:"go"`                 // of the compiler
}

// ThisProgram describes the running program from its build information.
func ThisProgram() VersionInfo {
	v := VersionInfo{SchemaVersion: SchemaVersion, Version: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	return describe(v, info)
}

// describe reads the build information. Between releases, a version that Go
// makes of the revision says no more than the revision.
func describe(v VersionInfo, info *debug.BuildInfo) VersionInfo {
	v.Version = info.Main.Version
	if v.Version == "" || v.Version == "(devel)" || strings.HasPrefix(v.Version, "v0.0.0-") {
		v.Version = "unreleased"
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

// shownRevision is how many digits of a revision are shown.
const shownRevision = 12

// Source names the version and what it was built from, as "unreleased,
// revision 0123456789ab with changes".
func (v VersionInfo) Source() string {
	if v.Revision == "" {
		return v.Version + ", revision unknown"
	}
	s := v.Version + ", revision " + v.Revision[:min(shownRevision, len(v.Revision))]
	if v.Modified {
		s += " with changes"
	}
	return s
}

// String is Source and the compiler.
func (v VersionInfo) String() string { return v.Source() + ", " + v.Go }
