// Command with_launchdarkly listens with github.com/launchdarkly/eventsource.
package main

import (
	"github.com/launchdarkly/eventsource"

	"sse-gateway/clients/hear"
)

func main() {
	// Without a handler, its first error would block it until somebody reads the channel Errors.
	errors := eventsource.StreamOptionErrorHandler(func(err error) eventsource.StreamErrorHandlerResult {
		hear.Error(err)
		return eventsource.StreamErrorHandlerResult{}
	})
	stream, err := eventsource.SubscribeWithURL(hear.URL(), errors)
	if err != nil {
		hear.End(err)
		return
	}
	hear.Open()
	for event := range stream.Events {
		hear.Event(event.Event(), event.Id(), event.Data())
	}
	hear.End(nil)
}
