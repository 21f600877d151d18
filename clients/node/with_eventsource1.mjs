// eventsource 1.

import EventSource from 'eventsource1';
import { listenTo, url } from './hear.mjs';

listenTo(new EventSource(url));
