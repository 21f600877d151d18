// eventsource 4, which reads with `fetch`.

import { EventSource } from 'eventsource4';
import { listenTo, url } from './hear.mjs';

listenTo(new EventSource(url));
