// Pause does nothing until it is told to stop, and buries orphans.
//
// It is the first process of every pod's sandbox and of every machine of the testbed: whoever is
// process 1 of a PID namespace inherits its orphans, and when it ends, the kernel ends the rest.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			child, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if err != nil || child <= 0 {
				break
			}
		}
	}
}
