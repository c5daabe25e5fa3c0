package nft

import "fmt"

// Exists reports whether this network namespace has the table, whoever made
// it. It changes nothing.
func Exists(cfg Config) (bool, error) {
	c, err := dial()
	if err != nil {
		return false, fmt.Errorf("nft: look for table %s: %w", cfg.Table, err)
	}
	defer c.nl.Close()
	e := &engine{cfg: cfg, conn: c}
	_, exists, err := e.tableFlags()
	if err != nil {
		return false, fmt.Errorf("nft: look for table %s: %w", cfg.Table, err)
	}
	return exists, nil
}
