// eventsource 3, which reads with `fetch`.

import { EventSource } from 'eventsource3';
import { listenTo, url } from './hear.mjs';

listenTo(new EventSource(url));
