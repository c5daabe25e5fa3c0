package control

import (
	"runtime"
	"runtime/debug"
)

// VersionInfo describes a program: the answer of /v1/version.
type VersionInfo struct {
	SchemaVersion string `json:"schemaVersion"`
	Version       string `json:"version"`            // of the module, or the revision it was built from
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
	v.Version = info.Main.Version
	if v.Version == "" || v.Version == "(devel)" {
		v.Version = "unreleased" // built without version control
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
